"""What the broker says of itself."""
