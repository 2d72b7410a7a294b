"""Connecting an account in a browser."""
