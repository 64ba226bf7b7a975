"""Base classes of configurations, models and processors, and the assembly of models from pretrained parts."""
