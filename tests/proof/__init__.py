"""The renewal protocol under crashes and faults, in the real process; the sandbox is the judge."""
