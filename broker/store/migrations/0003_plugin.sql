-- The OAuth server for plugins. Of codes, tokens and handles only hashes lie here.

CREATE TABLE plugin_consents (
  hash TEXT PRIMARY KEY,
  browser_hash TEXT NOT NULL,
  client TEXT NOT NULL,
  redirect_uri TEXT NOT NULL,
  redirect_uri_given BIGINT NOT NULL,
  state TEXT,
  scope TEXT NOT NULL,
  challenge TEXT,
  subject TEXT,
  expires_at DOUBLE PRECISION NOT NULL,
  tries BIGINT NOT NULL
);
CREATE INDEX plugin_consents_expiry ON plugin_consents (expires_at);

-- A keyed hash, since forty bits could be searched through.
CREATE TABLE plugin_connect_codes (
  handle TEXT PRIMARY KEY,
  digest TEXT NOT NULL,
  subject TEXT NOT NULL,
  created_by TEXT NOT NULL,
  expires_at DOUBLE PRECISION NOT NULL,
  tries BIGINT NOT NULL
);
CREATE INDEX plugin_connect_codes_expiry ON plugin_connect_codes (expires_at);

CREATE TABLE plugin_codes (
  hash TEXT PRIMARY KEY,
  client TEXT NOT NULL,
  subject TEXT NOT NULL,
  redirect_uri TEXT,
  scope TEXT NOT NULL,
  challenge TEXT,
  expires_at DOUBLE PRECISION NOT NULL,
  grant_id TEXT
);
CREATE INDEX plugin_codes_expiry ON plugin_codes (expires_at);

CREATE TABLE plugin_people (
  hash TEXT PRIMARY KEY,
  browser_hash TEXT NOT NULL,
  subject TEXT NOT NULL,
  code_hash TEXT NOT NULL,
  expires_at DOUBLE PRECISION NOT NULL,
  taken_at DOUBLE PRECISION
);
CREATE INDEX plugin_people_browser ON plugin_people (browser_hash);
CREATE INDEX plugin_people_expiry ON plugin_people (expires_at);

CREATE TABLE plugin_grants (
  id TEXT PRIMARY KEY,
  client TEXT NOT NULL,
  subject TEXT NOT NULL,
  scope TEXT NOT NULL,
  created_at DOUBLE PRECISION NOT NULL,
  last_used_at DOUBLE PRECISION NOT NULL,
  expires_at DOUBLE PRECISION NOT NULL,
  code_hash TEXT NOT NULL,
  account TEXT,
  revoked_at DOUBLE PRECISION
);
CREATE INDEX plugin_grants_subject ON plugin_grants (subject, client);
CREATE INDEX plugin_grants_code ON plugin_grants (code_hash);
CREATE INDEX plugin_grants_expiry ON plugin_grants (expires_at);
CREATE INDEX plugin_grants_revoked ON plugin_grants (revoked_at) WHERE revoked_at IS NOT NULL;

-- sealed_next is kept for a minute; it opens with the refresh token of its own row alone.
CREATE TABLE plugin_pairs (
  refresh_hash TEXT PRIMARY KEY,
  access_hash TEXT NOT NULL,
  grant_id TEXT NOT NULL,
  scope TEXT NOT NULL,
  created_at DOUBLE PRECISION NOT NULL,
  access_expires_at DOUBLE PRECISION NOT NULL,
  refresh_expires_at DOUBLE PRECISION NOT NULL,
  used_at DOUBLE PRECISION,
  replaced_at DOUBLE PRECISION,
  replaced_by TEXT,
  sealed_next TEXT
);
CREATE UNIQUE INDEX plugin_pairs_access ON plugin_pairs (access_hash);
CREATE INDEX plugin_pairs_grant ON plugin_pairs (grant_id);
CREATE INDEX plugin_pairs_replaced ON plugin_pairs (replaced_at) WHERE replaced_at IS NOT NULL;
CREATE INDEX plugin_pairs_sealed ON plugin_pairs (replaced_at) WHERE sealed_next IS NOT NULL;

-- Who a plugin event is about: such a person may have no account here.
ALTER TABLE events ADD COLUMN subject TEXT;
