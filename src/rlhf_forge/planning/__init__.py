"""How much memory a run needs and how long it takes, known before anything is loaded."""
