"""Talking to Kit, Kustomer and any other OAuth provider."""
