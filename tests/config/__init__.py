"""config.toml: every mistake is told, at once, with its key; no secret is ever quoted."""
