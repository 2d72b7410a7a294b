"""Alerts about events: webhooks, commands, event streams, and announcements of grants that will end."""
