"""What all models share: base classes, building from pretrained parts, and what a checkpoint carries."""
