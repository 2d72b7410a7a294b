-- The first schema. Ciphertext is TEXT, times are epoch seconds, flags are 0 or 1: both databases read it alike.

CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

CREATE TABLE keys (
  kid TEXT PRIMARY KEY,
  purpose TEXT NOT NULL,
  wrapped TEXT NOT NULL,
  master_id TEXT NOT NULL,
  active BIGINT NOT NULL,
  created_at DOUBLE PRECISION NOT NULL
);

CREATE TABLE accounts (
  name TEXT PRIMARY KEY,
  provider TEXT NOT NULL,
  epoch BIGINT NOT NULL,
  generation BIGINT NOT NULL,
  client_id TEXT NOT NULL,
  sealed_access TEXT,
  sealed_refresh TEXT,
  token_type TEXT NOT NULL,
  scope TEXT NOT NULL,
  issued_at DOUBLE PRECISION NOT NULL,
  expires_at DOUBLE PRECISION NOT NULL,
  refreshed_at DOUBLE PRECISION NOT NULL,
  created_at DOUBLE PRECISION NOT NULL,
  external_id TEXT,
  label TEXT,
  subject TEXT,
  org TEXT,
  last_used_at DOUBLE PRECISION,
  frozen TEXT,
  frozen_since DOUBLE PRECISION,
  dead TEXT,
  dead_since DOUBLE PRECISION,
  removed_at DOUBLE PRECISION,
  unusable BIGINT NOT NULL,
  intent_id TEXT,
  intent_generation BIGINT,
  intent_at DOUBLE PRECISION,
  lease_owner TEXT,
  lease_until DOUBLE PRECISION,
  trouble TEXT,
  trouble_since DOUBLE PRECISION,
  attempts BIGINT NOT NULL,
  not_before DOUBLE PRECISION,
  ambiguous BIGINT NOT NULL,
  refusals BIGINT NOT NULL,
  first_refused_at DOUBLE PRECISION,
  next_at DOUBLE PRECISION
);

-- The background asks for what is due by this index alone; next_at is NULL where nothing is to be done.
CREATE INDEX accounts_due ON accounts (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX accounts_intent ON accounts (intent_at) WHERE intent_id IS NOT NULL;
CREATE INDEX accounts_identity ON accounts (provider, external_id);

-- What is kept of a purged name, so that its generations never go back: a keyed hash, nothing else.
CREATE TABLE purged_names (
  name_hash TEXT PRIMARY KEY,
  epoch BIGINT NOT NULL,
  generation BIGINT NOT NULL
);

-- Refresh tokens that were received but are not current; tried before an account is given up (R8).
CREATE TABLE spares (
  id TEXT PRIMARY KEY,
  account TEXT NOT NULL,
  epoch BIGINT NOT NULL,
  generation BIGINT NOT NULL,
  sealed TEXT NOT NULL,
  received_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX spares_account ON spares (account, epoch);

CREATE TABLE tickets (
  hash TEXT PRIMARY KEY,
  provider TEXT NOT NULL,
  account TEXT,
  org TEXT,
  return_to TEXT,
  allow_replace BIGINT NOT NULL,
  subject TEXT,
  created_by TEXT NOT NULL,
  expires_at DOUBLE PRECISION NOT NULL,
  spent_at DOUBLE PRECISION
);
CREATE INDEX tickets_account ON tickets (account);
CREATE INDEX tickets_expiry ON tickets (expires_at);

CREATE TABLE installs (
  state_hash TEXT PRIMARY KEY,
  provider TEXT NOT NULL,
  client_id TEXT NOT NULL,
  browser_hash TEXT NOT NULL,
  ticket_hash TEXT,
  account TEXT,
  org TEXT,
  return_to TEXT,
  kit_return_url TEXT,
  allow_replace BIGINT NOT NULL,
  subject TEXT,
  created_by TEXT NOT NULL,
  sealed_verifier TEXT,
  redirect_uri TEXT NOT NULL,
  created_at DOUBLE PRECISION NOT NULL,
  expires_at DOUBLE PRECISION NOT NULL,
  taken_at DOUBLE PRECISION,
  outcome TEXT,
  outcome_account TEXT,
  grant_epoch BIGINT,
  sealed_access TEXT,
  sealed_refresh TEXT,
  grant_meta TEXT,
  next_at DOUBLE PRECISION
);
CREATE INDEX installs_expiry ON installs (expires_at);
CREATE INDEX installs_due ON installs (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE logins (
  challenge_hash TEXT PRIMARY KEY,
  browser_hash TEXT NOT NULL,
  purpose TEXT NOT NULL,
  payload TEXT NOT NULL,
  expires_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX logins_expiry ON logins (expires_at);

CREATE TABLE callers (
  name TEXT PRIMARY KEY,
  accounts TEXT NOT NULL,
  permissions TEXT NOT NULL,
  created_at DOUBLE PRECISION NOT NULL
);

CREATE TABLE caller_keys (
  id TEXT PRIMARY KEY,
  caller TEXT NOT NULL,
  hash TEXT NOT NULL,
  created_at DOUBLE PRECISION NOT NULL,
  expires_at DOUBLE PRECISION,
  last_used_at DOUBLE PRECISION
);
CREATE INDEX caller_keys_caller ON caller_keys (caller);

CREATE TABLE events (
  id BIGINT PRIMARY KEY,
  at DOUBLE PRECISION NOT NULL,
  event TEXT NOT NULL,
  account TEXT,
  provider TEXT,
  reason TEXT,
  generation BIGINT
);
