"""Data sets as `datasets` tables of one row per image, and what turns their rows into batches.

Every loader of captioned images returns a `datasets.DatasetDict` with the columns `image`, `captions` (a list of
strings) and `image_id` (a string); some add `questions` and `answers`, and [`load_easy_vqa`] has these in place of
`captions`. [`answer_baselines`] answers such questions without the images. [`CaptionPairs`] presents a table as single
pairs, [`UniqueGroupBatchSampler`] draws batches without repeating an image, and [`ContrastiveCollator`] calls the
processor and derives `group_ids` from `image_id`. [`CaptionCollator`] makes the batches of captioning models.

A loader of labelled images has a column `label` in place of `captions`. [`ImagePairs`] pairs such images,
[`ImageAugmentation`] changes every one of them at random, and [`PairCollator`] calls the processor and numbers the
captions.

[`stream_image_text`] returns a `datasets.IterableDataset` of captioned images that are too many for a table.
"""

from vlmkit.cifar100_classes import CIFAR100_CLASSES, CIFAR100_SUPERCLASSES
from vlmkit.data.caption_collator import CaptionCollator
from vlmkit.data.caption_pairs import CaptionPairs
from vlmkit.data.chats.answer_baselines import answer_baselines
from vlmkit.data.chats.caption_chats import CAPTION_PROMPTS, CaptionChats, caption_chat
from vlmkit.data.chats.chat_collator import ChatCollator
from vlmkit.data.chats.chat_dataset import CHAT_TASKS, build_chat_dataset
from vlmkit.data.chats.messages import assistant_message, user_message
from vlmkit.data.chats.question_chats import QuestionChats
from vlmkit.data.contrastive_collator import ContrastiveCollator, group_id
from vlmkit.data.image_pairs.image_pairs import ImagePairs, SetEpochCallback
from vlmkit.data.image_pairs.mixing import MixedPairs, cut_mix, mix_up
from vlmkit.data.image_pairs.pair_collator import PairCollator
from vlmkit.data.samplers import UniqueGroupBatchSampler
from vlmkit.data.scenes.detailed_scenes import load_detailed_scenes
from vlmkit.data.scenes.language import true_captions
from vlmkit.data.scenes.scenes import caption_matches, load_scenes
from vlmkit.data.sources.cifar100 import load_cifar100
from vlmkit.data.sources.coco import load_coco_captions
from vlmkit.data.sources.easy_vqa import load_easy_vqa
from vlmkit.data.sources.flickr8k import load_flickr8k
from vlmkit.data.sources.image_folders import decodable_image_files, find_image_files, thumbnail
from vlmkit.data.sources.web_shards import stream_image_text
from vlmkit.data.splits import evaluation_split, take_rows
from vlmkit.data.transforms.augmentation import ImageAugmentation

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
    "build_chat_dataset",
    "caption_chat",
    "caption_matches",
    "cut_mix",
    "decodable_image_files",
    "evaluation_split",
    "find_image_files",
    "group_id",
    "load_cifar100",
    "load_coco_captions",
    "load_detailed_scenes",
    "load_easy_vqa",
    "load_flickr8k",
    "load_scenes",
    "mix_up",
    "stream_image_text",
    "take_rows",
    "thumbnail",
    "true_captions",
    "user_message",
]
