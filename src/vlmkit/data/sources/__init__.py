"""Loaders, one module per data set or layout. Each returns tables of one row per image."""
