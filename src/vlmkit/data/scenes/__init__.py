"""Synthetic data sets of drawn scenes with exact captions, questions and answers."""
