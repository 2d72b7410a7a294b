"""Access tokens: handing them out and renewing them."""
