"""The keyring of a store, and the records that are encrypted with it."""
