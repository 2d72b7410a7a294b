"""The record of who got what: its lines, its chain, what happens when it cannot be written, its verification."""
