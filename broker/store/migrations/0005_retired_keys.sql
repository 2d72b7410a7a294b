-- A retired key seals nothing any more and is kept wrapped, so that what turns up late still opens.
ALTER TABLE keys ADD COLUMN retired_at DOUBLE PRECISION;
