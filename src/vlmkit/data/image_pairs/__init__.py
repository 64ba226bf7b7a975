"""Data sets, collators and mixing augmentations of image pairs."""
