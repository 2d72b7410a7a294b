"""Logs, audit, health."""
