"""Handing out tokens and renewing them: `TokenService`."""
