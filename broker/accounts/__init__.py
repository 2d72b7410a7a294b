"""Looking after connections: `AccountService`."""
