"""Train a sequence of models, each of which adds one change to the previous one.

`--ladder report` leads from the baseline of the report to its enhanced encoder. `--ladder options` adds the options of
`PairedCifarAligner` to a small CNN:

    python examples/paired_cifar/ablation.py --ladder report --data uoft-cs/cifar100
    python examples/paired_cifar/ablation.py --ladder options --data uoft-cs/cifar100 \
        --text sentence-transformers/all-MiniLM-L6-v2

An interrupted run resumes: results of finished rows are read from disk.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from ablation_report import write_report
from pair_setup import (
    AlignerTrainingArguments,
    AugmentationArguments,
    DataArguments,
    ModelArguments,
    load_pairs,
    load_text_encoder,
)
from train import build_trainer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from vlmkit import PairedCifarAligner, PairedCifarAlignerProcessor
from vlmkit.data import ImagePairs
from vlmkit.modules.fingerprint import text_fingerprint
from vlmkit.training import parse_arguments

Row = tuple[str, dict[str, Any]]


def recipe(name: str) -> dict[str, Any]:
    """Load the settings of a YAML file in the folder of this script."""
    return yaml.safe_load((Path(__file__).parent / name).read_text())


# The rows of the report. All rows except the last use the optimizer and the number of epochs of the baseline.
REPORT: list[Row] = [
    ("baseline", recipe("baseline.yaml")),
    ("+ 6 layers", {"vision_args": {"num_hidden_layers": 6}}),
    ("+ 8 heads", {"vision_args": {"num_attention_heads": 8}}),
    ("+ MLP width 2048", {"vision_args": {"intermediate_size": 2048}}),
    ("+ GELU", {"vision_args": {"hidden_act": "gelu"}}),
    ("+ augmentation", {"flip": 0.5, "color_jitter": 0.2, "rotation": 10.0}),
    (
        "+ schedule (enhanced)",
        {
            "weight_decay": 0.01,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr": 1e-5},
            "warmup_steps": 0.1,
            "num_train_epochs": 20,
        },
    ),
]

# Our options. The first row is the CNN of best_cpu.yaml with the captions, loss and temperature of the report.
OPTIONS: list[Row] = [
    (
        "in-batch loss",
        {
            **recipe("best_cpu.yaml"),
            "caption_normalization": "none",
            "loss": "in_batch",
            "learn_temperature": False,
            "class_loss_weight": 0.0,
            "num_train_epochs": 3,
        },
    ),
    ("+ learned temperature", {"learn_temperature": True}),
    ("+ softmax over the bank", {"loss": "full_bank"}),
    ("+ centered captions", {"caption_normalization": "center"}),
    ("+ whitened captions", {"caption_normalization": "whiten"}),
    ("+ class loss", {"class_loss_weight": 0.5}),
    ("+ swap margin", {"swap_loss_weight": 1.0}),
    ("+ label smoothing", {"label_smoothing": 0.1}),
]
LADDERS = {"report": REPORT, "options": OPTIONS}
RECIPE = (
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "optim",
    "bf16",
    "fp16",
    "ema_decay",
)
"""Training arguments that affect a result."""


@dataclass
class AblationArguments:
    """Rows and seeds. All other flags override the settings of the rows."""

    ladder: Literal["report", "options"] = field(
        default="report", metadata={"help": "Changes of the report, or options of PairedCifarAligner."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Training seeds of every row."})


def main() -> None:
    """Run the rows without a saved result, then write the report over all rows."""
    runs = rows()
    ablation, model_args, data_args, _, training_args = runs[0][1]
    folder = Path(training_args.output_dir) / f"ablation_{ablation.ladder}"
    folder.mkdir(parents=True, exist_ok=True)
    text, pairs = load_text_encoder(model_args.text), load_pairs(data_args)
    banks: dict[str, PairedCifarAligner] = {}
    results = []
    for name, arguments in runs:
        seed = arguments[-1].seed
        path = folder / f"{name.strip('+ ').replace(' ', '_')}-{seed}-{fingerprint(arguments)}.json"
        if not path.exists():
            print(f"{name}, seed {seed}", flush=True)
            result = {"row": name, "seed": seed, **run_row(arguments, pairs, text, banks)}
            unfinished = path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(result, indent=2))
            os.replace(unfinished, path)
        results.append(json.loads(path.read_text()))
    held_out = pairs.get("validation", pairs.get("test"))
    write_report(results, held_out.caption_ids, held_out.num_classes, folder)
    print((folder / "summary.md").read_text())


def rows() -> list[tuple[str, tuple[Any, ...]]]:
    """Return the name and the arguments of every row and seed."""
    kinds = (AblationArguments, ModelArguments, DataArguments, AugmentationArguments, AlignerTrainingArguments)
    ablation = parse_arguments(*kinds)[0]
    settings: dict[str, Any] = {}
    runs = []
    for name, changes in LADDERS[ablation.ladder]:
        backbone = {**settings.get("vision_args", {}), **changes.get("vision_args", {})}
        settings = {**settings, **changes, "vision_args": backbone}
        for seed in ablation.seeds:
            defaults = {**settings, "output_dir": "runs/paired_cifar", "seed": seed}
            runs.append((name, parse_arguments(*kinds, defaults=defaults)))
    return runs


def fingerprint(arguments: tuple[Any, ...]) -> str:
    """Return a hash of all settings that affect a result."""
    _, *parts, training_args = arguments
    settings = [*map(vars, parts), {name: str(getattr(training_args, name)) for name in RECIPE}]
    return text_fingerprint(json.dumps(settings), size=4)


def run_row(
    arguments: tuple[Any, ...],
    pairs: dict[str, ImagePairs],
    text: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    banks: dict[str, PairedCifarAligner],
) -> dict[str, Any]:
    """Train and evaluate one row. Models with the same caption normalization share one caption bank."""
    _, model_args, _, augmentation_args, training_args = arguments
    training_args.save_strategy = "no"
    training_args.load_best_model_at_end = False
    training_args.eval_strategy = "no"
    set_seed(training_args.seed)
    model = PairedCifarAligner(model_args.config(*text, pairs["train"].class_names))
    if model_args.caption_normalization in banks:
        copy_caption_bank(model, banks[model_args.caption_normalization])
    else:
        model.build_caption_bank(*text, pooling=model_args.text_pooling)
        banks[model_args.caption_normalization] = model
    start = time.perf_counter()
    processor = PairedCifarAlignerProcessor.for_cifar100(model_args.input_size)
    trainer = build_trainer(model, processor, pairs, augmentation_args, training_args)
    trainer.train()
    seconds = time.perf_counter() - start
    metrics = trainer.evaluate()
    return {
        "epochs": training_args.num_train_epochs,
        "parameters": model.num_parameters(),
        "seconds": round(seconds, 1),
        "metrics": {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")},
    }


def copy_caption_bank(model: PairedCifarAligner, other: PairedCifarAligner) -> None:
    """Copy the caption bank of `other` to `model`."""
    model.caption_embeds.copy_(other.caption_embeds)
    model.caption_bank_fingerprints.copy_(other.caption_bank_fingerprints)
    model.config.text_encoder = other.config.text_encoder
    model.check_caption_bank()


if __name__ == "__main__":
    main()
