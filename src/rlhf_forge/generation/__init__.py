"""Token-level generation: one engine for rollouts, evaluation, chat and the server."""
