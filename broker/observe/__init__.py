"""Watching: logs, metrics, health."""
