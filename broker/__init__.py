"""token-broker keeps OAuth connections alive and hands out fresh Bearer tokens."""

__version__ = "0.2.0"
