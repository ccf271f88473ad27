"""A small closed world with a known right answer to every question, for runs that take minutes."""
