"""How fast the broker is, as ratios to servers that run beside it in the same minutes."""
