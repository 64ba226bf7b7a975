"""What `transformers.Trainer` lacks, and nothing else."""

from vlmkit.training.adapters import adapt_backbones, load_lora
from vlmkit.training.arguments import (
    ContrastiveTrainingArguments,
    TableTrainingArguments,
    parse_arguments,
    parse_phases,
    refuse_several_gpus,
)
from vlmkit.training.block_freezing import freeze_lower_blocks
from vlmkit.training.captioning import caption_table
from vlmkit.training.ema import EmaCallback
from vlmkit.training.embedding import TableEmbeddings, embed_table
from vlmkit.training.feature_cache import cache_image_features, cache_image_tokens, cache_text_features
from vlmkit.training.part_rates import optimizer_with_part_rates
from vlmkit.training.phases import PhaseProgress, phase_progress, progress_of_phases
from vlmkit.training.replies import first_replies, reply_to_chats
from vlmkit.training.save_processor import SaveProcessorCallback
from vlmkit.training.trainer import EvalCollatorTrainer

__all__ = [
    "ContrastiveTrainingArguments",
    "EmaCallback",
    "EvalCollatorTrainer",
    "PhaseProgress",
    "SaveProcessorCallback",
    "TableEmbeddings",
    "TableTrainingArguments",
    "adapt_backbones",
    "cache_image_features",
    "cache_image_tokens",
    "cache_text_features",
    "caption_table",
    "embed_table",
    "first_replies",
    "freeze_lower_blocks",
    "load_lora",
    "optimizer_with_part_rates",
    "parse_arguments",
    "parse_phases",
    "phase_progress",
    "progress_of_phases",
    "refuse_several_gpus",
    "reply_to_chats",
]
