"""Whole lives of accounts, made up by Hypothesis, against a small model of what must be true."""
