"""Telling people and programs what happened: webhook, command, streams, and what is foreseen."""
