"""Data sets, collators and baselines for chat models."""
