"""What `transformers.Trainer` lacks, and nothing else."""

from vlmkit.training.arguments import ContrastiveTrainingArguments, parse_arguments
from vlmkit.training.ema import EmaCallback
from vlmkit.training.embedding import TableEmbeddings, embed_table
from vlmkit.training.feature_cache import cache_image_features, cache_text_features
from vlmkit.training.save_processor import SaveProcessorCallback
from vlmkit.training.trainer import EvalCollatorTrainer

__all__ = [
    "ContrastiveTrainingArguments",
    "EmaCallback",
    "EvalCollatorTrainer",
    "SaveProcessorCallback",
    "TableEmbeddings",
    "cache_image_features",
    "cache_text_features",
    "embed_table",
    "parse_arguments",
]
