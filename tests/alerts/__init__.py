"""Telling of what happened: hooks, streams, forecasts, standing troubles."""
