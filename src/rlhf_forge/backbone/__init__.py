"""One frozen base, named LoRA adapters on it, and their scalar heads."""
