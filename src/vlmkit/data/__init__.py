"""Data sets as `datasets` tables of one row per image, and what turns their rows into batches.

Every loader returns a `datasets.DatasetDict` with the columns `image`, `captions` (a list of strings) and `image_id` (a
string); some add `questions` and `answers`. [`CaptionPairs`] views such a table as single pairs,
[`UniqueGroupBatchSampler`] draws batches without repeating an image, and [`ContrastiveCollator`] calls the processor
and derives `group_ids` from `image_id`.
"""

from vlmkit.data.collators import ContrastiveCollator, group_id
from vlmkit.data.flickr8k import load_flickr8k
from vlmkit.data.pairs import CaptionPairs
from vlmkit.data.samplers import UniqueGroupBatchSampler
from vlmkit.data.scene_language import true_captions
from vlmkit.data.scenes import caption_matches, load_scenes

__all__ = [
    "CaptionPairs",
    "ContrastiveCollator",
    "UniqueGroupBatchSampler",
    "caption_matches",
    "group_id",
    "load_flickr8k",
    "load_scenes",
    "true_captions",
]
