"""The maths of RLHF: pure functions on plain tensors."""
