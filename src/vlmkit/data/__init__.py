"""Data sets as `datasets` tables of one row per image, and what turns their rows into batches.

Every loader of captioned images returns a `datasets.DatasetDict` with the columns `image`, `captions` (a list of
strings) and `image_id` (a string); some add `questions` and `answers`. [`CaptionPairs`] views such a table as single
pairs, [`UniqueGroupBatchSampler`] draws batches without repeating an image, and [`ContrastiveCollator`] calls the
processor and derives `group_ids` from `image_id`. [`CaptionCollator`] makes the batches of captioning models.

A loader of labelled images has a column `label` in place of `captions`. [`ImagePairs`] pairs such images,
[`ImageAugmentation`] changes every one of them at random, and [`PairCollator`] calls the processor and numbers the
captions.
"""

from vlmkit.cifar100_classes import CIFAR100_CLASSES, CIFAR100_SUPERCLASSES
from vlmkit.data.augmentation import ImageAugmentation
from vlmkit.data.caption_collator import CaptionCollator
from vlmkit.data.cifar100 import load_cifar100
from vlmkit.data.coco import load_coco_captions
from vlmkit.data.collators import ContrastiveCollator, group_id
from vlmkit.data.flickr8k import load_flickr8k
from vlmkit.data.image_pairs import ImagePairs, SetEpochCallback
from vlmkit.data.mixing import MixedPairs, cut_mix, mix_up
from vlmkit.data.pair_collator import PairCollator
from vlmkit.data.pairs import CaptionPairs
from vlmkit.data.samplers import UniqueGroupBatchSampler
from vlmkit.data.scene_language import true_captions
from vlmkit.data.scenes import caption_matches, load_scenes

__all__ = [
    "CIFAR100_CLASSES",
    "CIFAR100_SUPERCLASSES",
    "CaptionCollator",
    "CaptionPairs",
    "ContrastiveCollator",
    "ImageAugmentation",
    "ImagePairs",
    "MixedPairs",
    "PairCollator",
    "SetEpochCallback",
    "UniqueGroupBatchSampler",
    "caption_matches",
    "cut_mix",
    "group_id",
    "load_cifar100",
    "load_coco_captions",
    "load_flickr8k",
    "load_scenes",
    "mix_up",
    "true_captions",
]
