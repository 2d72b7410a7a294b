-- One identity at a provider belongs to one account. Accounts that already share one are marked with their own
-- name, so that the index leaves them apart: they are served as before, and `broker check` lists them.
ALTER TABLE accounts ADD COLUMN identity_double TEXT NOT NULL DEFAULT '';
UPDATE accounts SET identity_double = name
 WHERE removed_at IS NULL AND external_id IS NOT NULL AND EXISTS (
   SELECT 1 FROM accounts other
    WHERE other.provider = accounts.provider AND other.external_id = accounts.external_id
      AND other.removed_at IS NULL AND other.name < accounts.name);
CREATE UNIQUE INDEX accounts_identity_once ON accounts (provider, external_id, identity_double)
  WHERE removed_at IS NULL AND external_id IS NOT NULL;
CREATE INDEX accounts_doubles ON accounts (provider, external_id) WHERE identity_double <> '';

-- Requests that a browser kept for us and that were used: a hash and when it ends, nothing else.
CREATE TABLE claims (
  hash TEXT PRIMARY KEY,
  expires_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX claims_expiry ON claims (expires_at);
CREATE INDEX installs_ticket ON installs (ticket_hash) WHERE ticket_hash IS NOT NULL;
-- Tickets of grants that wait for their identity.
CREATE INDEX installs_held ON installs (ticket_hash) WHERE grant_meta IS NOT NULL;
