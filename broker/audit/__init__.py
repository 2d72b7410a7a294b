"""The audit: who asked for what and what was decided, chained, written before the answer leaves; and its check."""
