-- What is asked at the start and every hour, and what a scrape counts, must not read the whole table either.

-- Grants that are near their end: by age, for want of a refresh token, by idleness.
CREATE INDEX accounts_grant_end ON accounts (grant_ends_at, name) WHERE grant_ends_at IS NOT NULL;
CREATE INDEX accounts_unrenewable ON accounts (expires_at, name) WHERE sealed_refresh IS NULL;
CREATE INDEX accounts_idle ON accounts (provider, refreshed_at, name);
CREATE INDEX foretold_ends_at ON foretold_ends (ends_at);

-- All that are not simply active.
CREATE INDEX accounts_gone ON accounts (provider) WHERE removed_at IS NOT NULL;
CREATE INDEX accounts_troubled ON accounts (provider)
  WHERE dead IS NOT NULL OR frozen IS NOT NULL OR ambiguous > 0 OR trouble IS NOT NULL;
