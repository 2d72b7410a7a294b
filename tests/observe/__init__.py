"""Watching: metrics as a scraper reads them."""
