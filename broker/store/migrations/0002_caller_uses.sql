-- When callers without a key of ours were last used; the configuration names them, so they have no row in callers.

CREATE TABLE caller_uses (
  name TEXT PRIMARY KEY,
  last_used_at DOUBLE PRECISION NOT NULL
);
