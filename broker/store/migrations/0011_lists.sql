-- A list by status or by subject reads the rows that it shows, and few others.

CREATE INDEX accounts_status ON accounts ((CASE
  WHEN dead IS NOT NULL THEN 'needs_reauthorization'
  WHEN frozen IS NOT NULL THEN 'frozen'
  WHEN ambiguous > 0 THEN 'uncertain'
  WHEN trouble IS NOT NULL AND trouble <> 'rejected_by_provider' THEN 'refresh_failing'
  ELSE 'active' END), name)
  WHERE dead IS NOT NULL OR frozen IS NOT NULL OR ambiguous > 0 OR trouble IS NOT NULL;
CREATE INDEX accounts_subject ON accounts (subject, name) WHERE subject IS NOT NULL;
