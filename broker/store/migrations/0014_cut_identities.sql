-- Version 0.1.0 cut identities to 200 characters, so one of that length may be only the beginning of a longer one. Such
-- accounts are marked, left out of the index and matched by nobody until the whole identity is known.
UPDATE accounts SET identity_double = 'cut ' || name WHERE length(external_id) = 200;
