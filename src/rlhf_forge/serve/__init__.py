"""The server: OpenAI-style chat completions and scores, from adapters on one base."""
