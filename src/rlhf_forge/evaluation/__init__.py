"""Judging trained policies and reward models on what they were not trained on."""
