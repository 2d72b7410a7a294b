"""What operators look at in a browser: what is broken, whom it concerns, what to do."""
