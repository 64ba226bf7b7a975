"""Loaders of data sets, which return tables with one row per image."""
