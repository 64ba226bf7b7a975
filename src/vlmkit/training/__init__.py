"""Extensions of `transformers.Trainer`: arguments, callbacks, parameter groups, phases, freezing and adapters."""

from vlmkit.training.adapters import adapt_backbones, load_lora
from vlmkit.training.arguments import (
    ContrastiveTrainingArguments,
    TableTrainingArguments,
    check_single_gpu,
    parse_arguments,
    parse_phases,
)
from vlmkit.training.block_freezing import freeze_lower_blocks
from vlmkit.training.ema import EmaCallback
from vlmkit.training.eval_collator_trainer import EvalCollatorTrainer
from vlmkit.training.parameter_groups import optimizer_with_group_learning_rates
from vlmkit.training.phases import PhaseStatus, check_phases, phase_status
from vlmkit.training.save_processor import SaveProcessorCallback

__all__ = [
    "ContrastiveTrainingArguments",
    "EmaCallback",
    "EvalCollatorTrainer",
    "PhaseStatus",
    "SaveProcessorCallback",
    "TableTrainingArguments",
    "adapt_backbones",
    "check_phases",
    "check_single_gpu",
    "freeze_lower_blocks",
    "load_lora",
    "optimizer_with_group_learning_rates",
    "parse_arguments",
    "parse_phases",
    "phase_status",
]
