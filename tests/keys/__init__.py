"""Opening the key ring at start."""
