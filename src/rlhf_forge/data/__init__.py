"""From a file of preferences to batches of tokens."""
