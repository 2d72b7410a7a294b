"""The contract of the stores, and SQLite's own promises."""
