"""What `transformers.Trainer` lacks, and nothing else."""

from vlmkit.training.feature_cache import cache_image_features, cache_text_features

__all__ = ["cache_image_features", "cache_text_features"]
