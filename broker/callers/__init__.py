"""Who is calling, and what they may do: `Gate` is the only door."""
