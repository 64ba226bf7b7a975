"""Analysis of models and results: parameter counts, attention maps, similarities and figures.

Import functions from the modules of this package, because figures need `vlmkit[viz]`.
"""
