-- What the background asks every few seconds must not read the whole table to find that there is nothing.
CREATE INDEX accounts_removed ON accounts (removed_at) WHERE removed_at IS NOT NULL;
CREATE INDEX events_at ON events (at);
