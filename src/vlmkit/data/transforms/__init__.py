"""Augmentations for batches of images."""
