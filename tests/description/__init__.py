"""What the listeners say of themselves, held to what they do."""
