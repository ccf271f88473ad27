"""What people prefer: votes taken, kept, counted and handed to the next training run."""
