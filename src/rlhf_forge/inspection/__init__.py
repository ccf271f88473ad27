"""What is wrong with preference data, found before anything is trained on it."""
