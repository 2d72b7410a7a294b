"""Through the whole house: token, install, renewal, restart."""
