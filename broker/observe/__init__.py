"""Watching: logs, metrics, audit, health."""
