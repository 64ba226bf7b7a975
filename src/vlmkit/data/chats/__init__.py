"""Captions, questions and conversations as chat samples."""
