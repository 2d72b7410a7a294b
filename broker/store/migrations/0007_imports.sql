-- Which grant an account was imported with, as a keyed hash: an import that was broken off goes on where it was.
CREATE TABLE imports (
  account TEXT PRIMARY KEY,
  epoch BIGINT NOT NULL,
  generation BIGINT NOT NULL,
  grant_hash TEXT NOT NULL
);
CREATE INDEX imports_by_grant ON imports (grant_hash);
