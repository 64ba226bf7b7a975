"""Drawn scenes: pictures whose captions, questions and answers are known to be true."""
