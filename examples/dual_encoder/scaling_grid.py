"""Which side should we scale? Every vision backbone with every text backbone, over several seeds.

The paper's grid, beside its honest version in which the text models really run ("encoder:"):

    python examples/dual_encoder/scaling_grid.py --data jxie/flickr8k --seeds 0 1 2

A killed run goes on where it stopped: finished cells are read, not redone. Each tower runs once over the images or
captions; its features are shared by all cells and epochs.
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
    """Rows, columns and repetitions of the grid."""

    vision: list[str] = field(
        default_factory=lambda: VISION,
        metadata={"help": "folders or hub ids; 'random:NAME' takes the architecture without its weights"},
    )
    text: list[str] = field(
        default_factory=lambda: [*TEXT, *(f"encoder:{name}" for name in TEXT)],
        metadata={"help": "folders or hub ids, used for their token embeddings; 'encoder:NAME' runs the whole model"},
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={"help": "of the training and, in the protocol 'paper', of the split (in place of --split_seed)"},
    )
    cutoffs: list[int] = field(default_factory=lambda: [1, 5, 10])


def main() -> None:
    """Run the cells that are missing, then write the report over all of them."""
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
    """Train one projection on cached features and score it on the test split."""
    start = time.perf_counter()
    data_args.split_seed = training_args.seed = seed
    training_args.save_strategy = "no"
    model, processor = build(vision, text, seed)
    model.to(training_args.device)
    tables = load_tables(data_args)
    train, test = (CaptionPairs(cache_features(model, processor, tables[split])) for split in ("train", "test"))
    encoded = time.perf_counter()
    set_seed(seed)  # once more: encoding may have drawn random numbers, reading cached features does not
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
    """The model and processor of a cell."""
    vision_name, text_name = vision.removeprefix("random:"), text.removeprefix("encoder:")
    features = "encoder" if text.startswith("encoder:") else "token_embeddings"
    set_seed(seed)
    processor = DualEncoderProcessor.from_vision_text_pretrained(vision_name, text_name)
    model = DualEncoderModel.from_vision_text_pretrained(
        vision_name, text_name, processor=processor, text_features=features
    )
    if vision.startswith("random:"):
        set_seed(seed)  # the same weights whatever the text side
        model.vision_tower.set_backbone(VisionTower(model.config.vision_config).backbone)
    return model, processor


def _split_kind(name: str) -> tuple[str, str]:
    """`random:`, `encoder:` or nothing, as part of a file name; and the model's place."""
    kind, _, place = name.rpartition(":")
    return (f"{kind}-" if kind else ""), place


def cell_name(
    vision: str,
    text: str,
    seed: int,
    grid: GridArguments,
    data_args: DataArguments,
    training_args: DualEncoderTrainingArguments,
) -> str:
    """Return a readable file name, which ends in a hash of everything that the result depends on."""
    recipe = ("learning_rate", "weight_decay", "num_train_epochs", "max_steps", "per_device_train_batch_size")
    settings = [vision, text, seed, grid.cutoffs, data_args.data, data_args.protocol]
    settings += [getattr(training_args, name) for name in recipe]
    fingerprint = text_fingerprint(json.dumps(settings), size=4)
    short = "--".join(f"{kind}{Path(place).name}" for kind, place in map(_split_kind, (vision, text)))
    return f"{short}--{data_args.protocol}--{seed}--{fingerprint}"


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
