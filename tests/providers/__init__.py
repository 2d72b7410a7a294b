"""Talking to providers: what every answer means, and what never happens to a token."""
