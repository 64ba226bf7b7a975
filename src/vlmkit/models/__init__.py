"""The models, a folder each: configuration, model, processor."""
