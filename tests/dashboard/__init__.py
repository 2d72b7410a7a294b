"""The dashboard: who gets in, what it shows, what it does."""
