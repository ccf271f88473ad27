"""kill -9 at many moments of real runs, each then gone on with; ``python -m tests.kills``."""
