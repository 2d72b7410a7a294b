"""Several brokers on one PostgreSQL: every promise of the renewal protocol still holds."""
