"""Evaluate a captioner on held-out images, and compare it with two controls.

    python examples/qformer_captioner/evaluate.py --model runs/qformer_captioner/phase_2 --dataset coco --data coco

- "shuffled images" assigns each image the caption that the model generates for the next image. Only the gain over this
  control shows that the model uses the image.
- "one caption for all" assigns all images the same training caption.
"""

import csv
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from caption_data import SCORES, DataArguments, load_tables, percent
from datasets import Dataset
from datasets.utils import tqdm
from transformers import AutoModel, AutoProcessor

import vlmkit  # noqa: F401 (registers the Auto classes)
from vlmkit.data import evaluation_split
from vlmkit.inference import cache_vision_features, caption_table
from vlmkit.metrics import caption_metrics
from vlmkit.training import parse_arguments


@dataclass
class EvaluationArguments:
    """Model, decoding and output folder."""

    model: str = field(metadata={"help": "Folder or hub id of a QFormerCaptioner."})
    output_dir: str = field(
        default="runs/captioner_evaluation", metadata={"help": "Folder for metrics.json and predictions.csv."}
    )
    batch_size: int = 32
    num_beams: int = 3
    max_new_tokens: int = 30
    constant_candidates: int = field(
        default=200, metadata={"help": "Number of training captions among which 'one caption for all' is selected."}
    )


def main() -> None:
    """Compute and print the metrics of the model and of both controls."""
    arguments, data_args = parse_arguments(EvaluationArguments, DataArguments)
    model = AutoModel.from_pretrained(arguments.model).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    tables = load_tables(data_args, training=False)
    table = cache_vision_features(model.get_encoder("image"), processor, evaluation_split(tables))
    references = list(table["captions"])

    # Each image gets the vision features of the next one.
    order = [*range(1, len(table)), 0]
    shuffled = table.select(order)
    predictions = {
        name: caption_table(
            model,
            processor,
            images,
            batch_size=arguments.batch_size,
            do_sample=False,
            num_beams=arguments.num_beams,
            max_new_tokens=arguments.max_new_tokens,
        )
        for name, images in (("model", table), ("shuffled images", shuffled))
    }
    constant = best_constant(tables.get("train", table), references, arguments.constant_candidates)
    predictions["one caption for all"] = [constant] * len(table)
    metrics = {name: caption_metrics(captions, references) for name, captions in predictions.items()}

    print(f"\n{f'{len(table):,} images':22}" + "".join(f"{name:>9}" for name in SCORES))
    for name, values in metrics.items():
        print(f"{name:22}{percent(values)}")
    distinct = len(set(predictions["model"]))
    print(f"\n{distinct} distinct captions; one caption for all: {constant!r}")

    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "caption", "caption of the next image", "references"])
        rows = zip(table["image_id"], predictions["model"], predictions["shuffled images"], references, strict=True)
        writer.writerows((image_id, own, other, " | ".join(texts)) for image_id, own, other, texts in rows)
    print(f"output folder: {folder}")


def best_constant(table: Dataset, references: list[list[str]], num_candidates: int) -> str:
    """Return the caption with the highest CIDEr if it is assigned to all images.

    The selection uses the evaluated images themselves, which makes this control stronger.
    """
    rows = random.Random(0).sample(range(len(table)), min(num_candidates, len(table)))
    candidates = dict.fromkeys(captions[0] for captions in table.select(rows)["captions"])
    shown = tqdm(candidates, desc="Selecting one caption for all", delay=2)
    return max(shown, key=lambda caption: caption_metrics([caption] * len(references), references)["cider"])


if __name__ == "__main__":
    main()
