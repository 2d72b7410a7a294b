-- What a provider said last, and whether a refusal came in other words than the standard's.

ALTER TABLE accounts ADD COLUMN unusual BIGINT NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN detail TEXT;
ALTER TABLE events ADD COLUMN detail TEXT;

-- A token that no header can carry is a trouble, and shown as one.
UPDATE accounts SET trouble = 'token_unusable', trouble_since = refreshed_at
 WHERE unusable = 1 AND trouble IS NULL AND dead IS NULL;
