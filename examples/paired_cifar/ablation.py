"""Which change is worth what? One row after the other, each with one change more than the last.

The report's way from its baseline to its enhanced encoder, and the way of our options on the small CNN:

    python examples/paired_cifar/ablation.py --ladder report --data uoft-cs/cifar100
    python examples/paired_cifar/ablation.py --ladder options --data uoft-cs/cifar100 \
        --text sentence-transformers/all-MiniLM-L6-v2

A killed run goes on where it stopped: finished rows are read, not redone.
"""

import dataclasses
import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from ablation_report import write_report
from common import (
    AlignerTrainingArguments,
    AugmentationArguments,
    DataArguments,
    ModelArguments,
    load_pairs,
    load_text_encoder,
)
from train import build_trainer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from vlmkit import PairedCifarAligner
from vlmkit.data import ImagePairs
from vlmkit.training import parse_arguments

Row = tuple[str, dict[str, Any]]

# The report: Adam (AdamW without decay) at a constant rate for 4 epochs, until the last row.
REPORT: list[Row] = [
    (
        "baseline",
        {
            "vision_args": {
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "intermediate_size": 1024,
                "hidden_act": "relu",
            },
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 32,
            "num_train_epochs": 4,
        },
    ),
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

# Ours: the small CNN and recipe of best_cpu.yaml, with the report's captions, loss and temperature to begin with.
OPTIONS: list[Row] = [
    (
        "in-batch loss",
        {
            **yaml.safe_load((Path(__file__).parent / "best_cpu.yaml").read_text()),
            "caption_normalization": "none",
            "loss": "in_batch",
            "learn_temperature": False,
            "class_loss_weight": 0.0,
            "num_train_epochs": 3,
        },
    ),
    ("+ learned temperature", {"learn_temperature": True}),
    ("+ softmax over the bank", {"loss": "full_bank"}),
    ("+ centred captions", {"caption_normalization": "center"}),
    ("+ whitened captions", {"caption_normalization": "whiten"}),
    ("+ class loss", {"class_loss_weight": 0.5}),
    ("+ swap margin", {"swap_loss_weight": 1.0}),
    ("+ label smoothing", {"label_smoothing": 0.1}),
]
LADDERS = {"report": REPORT, "options": OPTIONS}


@dataclass
class AblationArguments:
    """Which rows, how often, and at what scale."""

    ladder: Literal["report", "options"] = "report"
    seeds: list[int] = field(default_factory=lambda: [0])
    max_epochs: float | None = field(default=None, metadata={"help": "no row trains longer than this"})


def main() -> None:
    """Run the rows that are missing, then write the report over all of them."""
    ablation, *arguments = parse_arguments(
        AblationArguments, ModelArguments, DataArguments, AugmentationArguments, AlignerTrainingArguments
    )
    folder = Path(arguments[-1].output_dir) / f"ablation_{ablation.ladder}"
    folder.mkdir(parents=True, exist_ok=True)
    places = (arguments[0].text, arguments[1].data)  # the recipes' own are hub ids
    text = load_text_encoder(arguments[0].text)
    pairs = load_pairs(arguments[1])
    banks: dict[str, PairedCifarAligner] = {}
    results, settings = [], {}
    for row, changes in LADDERS[ablation.ladder]:
        settings = merge(settings, changes)
        for seed in ablation.seeds:
            current = apply(arguments, {**settings, "seed": seed})
            current[0].text, current[1].data = places
            if ablation.max_epochs is not None:
                current[-1].num_train_epochs = min(current[-1].num_train_epochs, ablation.max_epochs)
            path = folder / f"{row.strip('+ ').replace(' ', '_')}-{seed}-{digest(settings, current)}.json"
            if not path.exists():
                print(f"{row}, seed {seed}", flush=True)
                result = {"row": row, "seed": seed, **run_row(current, pairs, text, banks)}
                unfinished = path.with_suffix(".tmp")
                unfinished.write_text(json.dumps(result, indent=2))
                os.replace(unfinished, path)
            results.append(json.loads(path.read_text()))
    held_out = pairs.get("validation", pairs.get("test"))
    write_report(results, held_out.caption_ids, held_out.num_classes, folder)
    print((folder / "summary.md").read_text())


def merge(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings with some changed; those of the backbone one by one."""
    merged = {**settings, **changes}
    if isinstance(changes.get("vision_args"), dict):
        merged["vision_args"] = {**settings.get("vision_args", {}), **changes["vision_args"]}
    return merged


def apply(arguments: list[Any], settings: dict[str, Any]) -> list[Any]:
    """A copy of the arguments with the settings of a row, each where it belongs."""
    words = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in settings.items()}
    return [
        dataclasses.replace(part, **{f.name: words[f.name] for f in dataclasses.fields(part) if f.name in words})
        for part in arguments
    ]


def digest(settings: dict[str, Any], arguments: list[Any]) -> str:
    """A fingerprint of all that a result depends on."""
    model_args, data_args, _, training_args = arguments
    parts = [settings, vars(model_args), vars(data_args), training_args.num_train_epochs, training_args.max_steps]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=4).hexdigest()


def run_row(
    arguments: list[Any],
    pairs: dict[str, ImagePairs],
    text: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    banks: dict[str, PairedCifarAligner],
) -> dict[str, Any]:
    """Train one row and score it; models with the same captions share one bank."""
    model_args, data_args, augmentation_args, training_args = arguments
    training_args.save_strategy = "no"
    training_args.load_best_model_at_end = False
    training_args.eval_strategy = "no"
    set_seed(training_args.seed)
    model = PairedCifarAligner(model_args.config(text[0], pairs["train"].class_names))
    if model_args.caption_normalization in banks:
        take_bank(model, banks[model_args.caption_normalization])
    else:
        model.build_caption_bank(*text, model_args.text_pooling)
        banks[model_args.caption_normalization] = model
    start = time.perf_counter()
    trainer = build_trainer(model, pairs, data_args, augmentation_args, training_args)
    trainer.train()
    seconds = time.perf_counter() - start
    metrics = trainer.evaluate()
    return {
        "epochs": training_args.num_train_epochs,
        "parameters": model.num_parameters(),
        "seconds": round(seconds, 1),
        "metrics": {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")},
    }


def take_bank(model: PairedCifarAligner, other: PairedCifarAligner) -> None:
    """Copy the captions' embeddings of another model."""
    model.caption_embeds.copy_(other.caption_embeds)
    model.caption_bank_digests.copy_(other.caption_bank_digests)
    model.config.text_encoder = other.config.text_encoder
    model.check_caption_bank()


if __name__ == "__main__":
    main()
