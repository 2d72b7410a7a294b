"""The dashboard: pages that show operators which accounts have a problem, and how to solve it."""
