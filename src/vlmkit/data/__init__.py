"""Loaders of data sets, and the samplers, collators and augmentations that create batches from them.

Loaders return a `datasets.DatasetDict` whose tables have one row per image, with the columns `image`, `image_id` (a
string) and further columns for the task:

- Captions: `captions` (a list), from [`load_flickr8k`], [`load_coco_captions`], [`load_scenes`] and
  [`load_detailed_scenes`]. [`CaptionPairs`] lists single image-caption pairs, and [`UniqueGroupBatchSampler`] draws
  batches of different images. [`ContrastiveCollator`], [`CaptionCollator`] and [`ChatCollator`] create batches for the
  different kinds of models.
- Questions: `questions` and `answers` (lists), from [`load_easy_vqa`], [`load_scenes`] and [`load_detailed_scenes`].
  [`QuestionChats`] converts them to conversations for [`ChatCollator`], and [`answer_baselines`] predicts answers
  without the images.
- Class labels: `label`, from [`load_cifar100`]. [`ImagePairs`] pairs the images, and [`PairCollator`] creates batches,
  with [`ImageAugmentation`] in training.

[`stream_image_text`] returns a `datasets.IterableDataset` for web-scale data sets that do not fit in a table.
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
