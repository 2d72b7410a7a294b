"""Authentication and authorization of callers, and the administration of their keys."""
