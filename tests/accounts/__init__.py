"""Looking after connections."""
