-- A spare's first refusal is confirmed before the spare is given up.

ALTER TABLE spares ADD COLUMN refusals BIGINT NOT NULL DEFAULT 0;
