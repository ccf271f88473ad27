"""Reinforcement learning from human feedback for people with one GPU."""
