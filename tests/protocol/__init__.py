"""The renewal protocol as an explicit-state model: every interleaving of steps, crashes and lost messages."""
