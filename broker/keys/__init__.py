"""The keys of the house: opening the ring at start, never over a store that another key sealed."""
