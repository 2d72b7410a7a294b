-- Alerts: what is told to whom, how far that has come, and what is foreseen.

-- An id never comes again, even where the newest events are purged. Whoever takes one holds the row until the
-- commit, so ids become durable in their order and a reader that goes on behind the last one misses none.
CREATE TABLE event_ids (
  one BIGINT PRIMARY KEY,
  last BIGINT NOT NULL,
  purged BIGINT NOT NULL
);
INSERT INTO event_ids (one, last, purged) SELECT 1, COALESCE(MAX(id), 0), COALESCE(MIN(id), 1) - 1 FROM events;

-- When a grant ends, of events that foretell it.
ALTER TABLE events ADD COLUMN due_at DOUBLE PRECISION;

-- Until when the provider lets the refresh token live, and whether renewals move that day.
ALTER TABLE accounts ADD COLUMN grant_ends_at DOUBLE PRECISION;
ALTER TABLE accounts ADD COLUMN grant_ages BIGINT NOT NULL DEFAULT 0;

-- How far each hook has read the events. target is a hash of where it leads.
CREATE TABLE alert_hooks (
  hook TEXT PRIMARY KEY,
  upto BIGINT NOT NULL,
  target TEXT NOT NULL,
  paused_at DOUBLE PRECISION
);

-- Events on their way to a hook. They name no account, so a purge finds nothing here.
CREATE TABLE alert_deliveries (
  hook TEXT NOT NULL,
  event_id BIGINT NOT NULL,
  attempts BIGINT NOT NULL,
  next_at DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (hook, event_id)
);

-- Troubles of a broker that were told as begun and not yet as over.
CREATE TABLE standing_troubles (
  replica TEXT NOT NULL,
  reason TEXT NOT NULL,
  provider TEXT NOT NULL,
  PRIMARY KEY (replica, reason, provider)
);

-- Ends of grants that were foretold: once for each end and threshold.
CREATE TABLE foretold_ends (
  account TEXT NOT NULL,
  ends_at DOUBLE PRECISION NOT NULL,
  days BIGINT NOT NULL,
  PRIMARY KEY (account, ends_at, days)
);
