-- Who did it, where somebody did: an operator, or a caller with the permission `manage`.
ALTER TABLE events ADD COLUMN actor TEXT;
