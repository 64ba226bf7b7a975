"""Inference on whole datasets: cached features, embeddings, captions and chat replies."""

from vlmkit.inference.captioning import caption_table
from vlmkit.inference.embedding import TableEmbeddings, embed_table
from vlmkit.inference.evaluation_mode import evaluation_mode
from vlmkit.inference.feature_cache import cache_image_features, cache_text_features, cache_vision_features
from vlmkit.inference.replies import first_replies, reply_to_chats

__all__ = [
    "TableEmbeddings",
    "cache_image_features",
    "cache_text_features",
    "cache_vision_features",
    "caption_table",
    "embed_table",
    "evaluation_mode",
    "first_replies",
    "reply_to_chats",
]
