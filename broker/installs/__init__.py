"""Installs: connecting an account in a browser."""
