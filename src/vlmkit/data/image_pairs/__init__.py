"""Pairs of images side by side, as data sets and batches."""
