"""Data sets as `datasets` tables of one row per image, and what turns their rows into batches.

Every loader of captioned images returns a `datasets.DatasetDict` with the columns `image`, `captions` (a list of
strings) and `image_id` (a string); some add `questions` and `answers`, and [`load_easy_vqa`] has these in place of
`captions`. [`answer_baselines`] answers such questions without the images. [`CaptionPairs`] views a table as single
pairs, [`UniqueGroupBatchSampler`] draws batches without repeating an image, and [`ContrastiveCollator`] calls the
processor and derives `group_ids` from `image_id`. [`CaptionCollator`] makes the batches of captioning models.

A loader of labelled images has a column `label` in place of `captions`. [`ImagePairs`] pairs such images,
[`ImageAugmentation`] changes every one of them at random, and [`PairCollator`] calls the processor and numbers the
captions.

[`stream_image_text`] returns a `datasets.IterableDataset` of captioned images that are too many for a table.
"""

from vlmkit.cifar100_classes import CIFAR100_CLASSES, CIFAR100_SUPERCLASSES
from vlmkit.data.augmentation import ImageAugmentation
from vlmkit.data.caption_collator import CaptionCollator
from vlmkit.data.chat_collator import ChatCollator
from vlmkit.data.chats import (
    CAPTION_PROMPTS,
    CHAT_TASKS,
    CaptionChats,
    QuestionChats,
    assistant_message,
    caption_chat,
    chats_of,
    user_message,
)
from vlmkit.data.cifar100 import load_cifar100
from vlmkit.data.coco import load_coco_captions
from vlmkit.data.collators import ContrastiveCollator, group_id
from vlmkit.data.detailed_scenes import load_detailed_scenes
from vlmkit.data.easy_vqa import load_easy_vqa
from vlmkit.data.flickr8k import load_flickr8k
from vlmkit.data.image_files import decodable_image_files, find_image_files, thumbnail
from vlmkit.data.image_pairs import ImagePairs, SetEpochCallback
from vlmkit.data.image_text_shards import stream_image_text
from vlmkit.data.mixing import MixedPairs, cut_mix, mix_up
from vlmkit.data.pair_collator import PairCollator
from vlmkit.data.pairs import CaptionPairs
from vlmkit.data.questions import answer_baselines
from vlmkit.data.samplers import UniqueGroupBatchSampler
from vlmkit.data.scene_language import true_captions
from vlmkit.data.scenes import caption_matches, load_scenes
from vlmkit.data.splits import first_rows, held_out

__all__ = [
    "CAPTION_PROMPTS",
    "CHAT_TASKS",
    "CIFAR100_CLASSES",
    "CIFAR100_SUPERCLASSES",
    "CaptionChats",
    "CaptionCollator",
    "CaptionPairs",
    "ChatCollator",
    "ContrastiveCollator",
    "ImageAugmentation",
    "ImagePairs",
    "MixedPairs",
    "PairCollator",
    "QuestionChats",
    "SetEpochCallback",
    "UniqueGroupBatchSampler",
    "answer_baselines",
    "assistant_message",
    "caption_chat",
    "caption_matches",
    "chats_of",
    "cut_mix",
    "decodable_image_files",
    "find_image_files",
    "first_rows",
    "group_id",
    "held_out",
    "load_cifar100",
    "load_coco_captions",
    "load_detailed_scenes",
    "load_easy_vqa",
    "load_flickr8k",
    "load_scenes",
    "mix_up",
    "stream_image_text",
    "thumbnail",
    "true_captions",
    "user_message",
]
