"""Handing out tokens and renewing them."""
