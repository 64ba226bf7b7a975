"""Train and evaluate every combination of vision and text backbone over several seeds.

By default, this is the grid of "Which side should we scale?", in two variants: with the token embeddings of the text
models only, as in the paper, and with their complete encoders ("encoder:NAME").

    python examples/dual_encoder/scaling_grid.py --data jxie/flickr8k --seeds 0 1 2

An interrupted run resumes: results of finished cells are read from disk. Each tower encodes the images or captions
once; all cells and epochs share the cached features.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from report import write_report
from retrieval_data import DataArguments, DualEncoderTrainingArguments, cache_features, load_tables
from transformers import Trainer, set_seed

from vlmkit import DualEncoderModel, DualEncoderProcessor
from vlmkit.analysis.parameters import dual_encoder_parameters
from vlmkit.data import CaptionPairs, ContrastiveCollator
from vlmkit.metrics import compute_retrieval_metrics
from vlmkit.modules import VisionTower
from vlmkit.modules.fingerprint import text_fingerprint
from vlmkit.training import parse_arguments

VISION = [
    "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
    "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
    "timm/vit_huge_patch14_224.orig_in21k",
]
TEXT = ["openai-community/gpt2", "openai-community/gpt2-medium", "openai-community/gpt2-large"]


@dataclass
class GridArguments:
    """Backbones, seeds and cutoffs of the grid."""

    vision: list[str] = field(
        default_factory=lambda: VISION,
        metadata={
            "help": "Folders or hub ids of image models. 'random:NAME' uses the architecture with random weights."
        },
    )
    text: list[str] = field(
        default_factory=lambda: [*TEXT, *(f"encoder:{name}" for name in TEXT)],
        metadata={
            "help": "Folders or hub ids of text models. Only their token embeddings are used; 'encoder:NAME' runs the "
            "whole model."
        },
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={"help": "Seeds of the training and, in the protocol 'paper', of the split (replaces --split_seed)."},
    )
    cutoffs: list[int] = field(default_factory=lambda: [1, 5, 10], metadata={"help": "Values of K for Recall@K."})


def main() -> None:
    """Run the cells without a saved result, then write the report over all cells."""
    grid, data_args, training_args = parse_arguments(GridArguments, DataArguments, DualEncoderTrainingArguments)
    folder = Path(training_args.output_dir)
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    cells = [(seed, vision, text) for seed in grid.seeds for vision in grid.vision for text in grid.text]
    results = []
    for number, (seed, vision, text) in enumerate(cells, start=1):
        path = folder / "cells" / f"{cell_name(vision, text, seed, grid, data_args, training_args)}.json"
        if not path.exists():
            print(f"cell {number} of {len(cells)}: {vision} x {text}, seed {seed}", flush=True)
            result = run_cell(vision, text, seed, grid.cutoffs, data_args, training_args)
            unfinished = path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(result, indent=2))
            os.replace(unfinished, path)
        results.append(json.loads(path.read_text()))
    write_report(results, folder, grid.cutoffs)
    print((folder / "summary.md").read_text())


def run_cell(
    vision: str,
    text: str,
    seed: int,
    cutoffs: list[int],
    data_args: DataArguments,
    training_args: DualEncoderTrainingArguments,
) -> dict[str, Any]:
    """Train one projection on cached features and evaluate it on the test split."""
    start = time.perf_counter()
    data_args.split_seed = training_args.seed = seed
    training_args.save_strategy = "no"
    model, processor = build(vision, text, seed)
    model.to(training_args.device)
    tables = load_tables(data_args)
    train, test = (CaptionPairs(cache_features(model, processor, tables[split])) for split in ("train", "test"))
    encoded = time.perf_counter()
    set_seed(seed)  # again: encoding may draw random numbers, reading cached features does not
    trainer = Trainer(
        model,
        training_args,
        data_collator=ContrastiveCollator(),
        train_dataset=train,
        compute_metrics=lambda prediction: compute_retrieval_metrics(prediction, cutoffs),
    )
    trainer.train()
    metrics = trainer.evaluate(test)
    return {
        "vision": vision,
        "text": text,
        "protocol": data_args.protocol,
        "seed": seed,
        "test_images": len(tables["test"]),
        "test_captions": len(test),
        "seconds_features": encoded - start,
        "seconds_training": time.perf_counter() - encoded,
        "parameters": vars(dual_encoder_parameters(model)),
        "metrics": {name.removeprefix("eval_"): value for name, value in metrics.items() if "/" in name or "@" in name},
    }


def build(vision: str, text: str, seed: int) -> tuple[DualEncoderModel, DualEncoderProcessor]:
    """Build the model and processor of a cell."""
    vision_name, text_name = vision.removeprefix("random:"), text.removeprefix("encoder:")
    features = "encoder" if text.startswith("encoder:") else "token_embeddings"
    set_seed(seed)
    processor = DualEncoderProcessor.from_vision_text_pretrained(vision_name, text_name)
    model = DualEncoderModel.from_vision_text_pretrained(
        vision_name, text_name, processor=processor, text_features=features
    )
    if vision.startswith("random:"):
        set_seed(seed)  # the same weights for every text backbone
        model.vision_tower.set_backbone(VisionTower(model.config.vision_config).backbone)
    return model, processor


def _split_prefix(name: str) -> tuple[str, str]:
    """Split a name into its prefix for file names (`random-`, `encoder-` or empty) and the path or hub id."""
    prefix, _, path = name.rpartition(":")
    return (f"{prefix}-" if prefix else ""), path


def cell_name(
    vision: str,
    text: str,
    seed: int,
    grid: GridArguments,
    data_args: DataArguments,
    training_args: DualEncoderTrainingArguments,
) -> str:
    """Return a readable file name that ends in a hash of all settings that affect the result."""
    recipe = ("learning_rate", "weight_decay", "num_train_epochs", "max_steps", "per_device_train_batch_size")
    settings = [vision, text, seed, grid.cutoffs, data_args.data, data_args.protocol]
    settings += [getattr(training_args, name) for name in recipe]
    fingerprint = text_fingerprint(json.dumps(settings), size=4)
    short = "--".join(f"{prefix}{Path(path).name}" for prefix, path in map(_split_prefix, (vision, text)))
    return f"{short}--{data_args.protocol}--{seed}--{fingerprint}"


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
