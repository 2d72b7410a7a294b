"""How pages look, and what their headers forbid."""
