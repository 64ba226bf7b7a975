"""What `transformers.Trainer` lacks, and nothing else."""

from vlmkit.training.embedding import TableEmbeddings, embed_table
from vlmkit.training.feature_cache import cache_image_features, cache_text_features

__all__ = ["TableEmbeddings", "cache_image_features", "cache_text_features", "embed_table"]
