"""The key ring, and the encryption of tokens with it."""
