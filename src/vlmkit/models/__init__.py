"""Models. Each subpackage contains the configuration, the model and the processor of one model."""
