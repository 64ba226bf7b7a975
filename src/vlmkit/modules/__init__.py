"""Building blocks shared by the models. They know no model and take explicit sizes."""

from vlmkit.modules.attention import Attention, AttentionBlock, FeedForwardBlock
from vlmkit.modules.feed_forward import FeedForward, GatedMLP
from vlmkit.modules.pooling import pool_tokens
from vlmkit.modules.text_tower import TextTower
from vlmkit.modules.token_embeddings import TokenEmbeddings
from vlmkit.modules.vision_tower import VisionTower

__all__ = [
    "Attention",
    "AttentionBlock",
    "FeedForward",
    "FeedForwardBlock",
    "GatedMLP",
    "TextTower",
    "TokenEmbeddings",
    "VisionTower",
    "pool_tokens",
]
