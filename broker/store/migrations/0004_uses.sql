-- Which callers are handed an account's tokens, for whoever looks after it.

CREATE TABLE uses (
  account TEXT NOT NULL,
  caller TEXT NOT NULL,
  last_used_at DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (account, caller)
);
