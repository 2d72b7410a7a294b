"""Connecting an account in a browser: `InstallService`."""
