"""The admin API: the checks, lists and actions for operators."""
