"""Score a saved aligner on held-out pairs, and draw what it sees and what it confuses.

python examples/paired_cifar/evaluate.py --model runs/paired_cifar_cpu --data uoft-cs/cifar100 --split validation
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from common import DataArguments, load_pairs, print_metrics
from pictures import draw_attention, draw_confusion, draw_embeddings, draw_errors, draw_occlusion
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoProcessor

from vlmkit import PairedCifarAligner, PredictedCaption
from vlmkit.data import ImagePairs, PairCollator
from vlmkit.metrics import confusion_matrix, frequent_confusions, pair_metrics, predicted_captions
from vlmkit.training import parse_arguments


@dataclass
class EvaluationArguments:
    """Which model, which images, and where the results go."""

    model: str = field(metadata={"help": "folder or hub id of a PairedCifarAligner"})
    split: str = field(default="validation", metadata={"help": "train, validation or test"})
    output_dir: str = field(default="runs/paired_cifar_evaluation", metadata={"help": "metrics, tables and pictures"})
    batch_size: int = 250
    projection: Literal["pca", "tsne"] = field(default="pca", metadata={"help": "of the embedding map"})
    num_examples: int = field(default=8, metadata={"help": "pairs in the pictures"})


def main() -> None:
    """Score pairs of which half show one class, and pairs of independent classes; draw the latter."""
    arguments, data_args = parse_arguments(EvaluationArguments, DataArguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Eager attention returns its weights, which a picture needs.
    model = AutoModel.from_pretrained(arguments.model, attn_implementation="eager").to(device).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    splits = load_pairs(data_args)
    if arguments.split not in splits:
        raise SystemExit(f"there is no split {arguments.split!r}; choose one of {', '.join(splits)}")
    halves = splits[arguments.split].with_pairs(different_class_probability=0.5)
    independent = halves.with_pairs(different_class_probability=1 - 1 / halves.num_classes)
    collator = PairCollator(processor, halves.num_classes)

    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {}
    for name, pairs in (("half_of_one_class", halves), ("independent_classes", independent)):
        loader = DataLoader(pairs, arguments.batch_size, collate_fn=collator)
        embeds, best = encode(model, loader)
        cutoffs = [k for k in (1, 10, 100) if k <= len(model.caption_embeds)]
        metrics[name] = pair_metrics(embeds, model.caption_embeds, pairs.caption_ids, pairs.num_classes, cutoffs)
        print_metrics(metrics[name], pairs, model, f"{arguments.split}, {name.replace('_', ' ')}")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))

    predicted = predicted_captions(embeds, model.caption_embeds)[0][:, 0].cpu()
    confusion = class_confusion(independent, predicted)
    write_tables(confusion, independent.class_names, folder)
    examples = next(iter(DataLoader(independent, arguments.num_examples, collate_fn=collator)))
    pictures = {
        "confusion": draw_confusion(confusion, independent.class_names),
        "errors": draw_errors(independent, predicted, best, arguments.num_examples),
        "embeddings": draw_embeddings(model, independent, embeds, arguments.projection),
        "occlusion": draw_occlusion(model, independent, examples),
        "attention": draw_attention(model, independent, examples),
    }
    for name, figure in pictures.items():
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=120)
    print(f"tables and pictures: {folder}")


@torch.no_grad()
def encode(model: PairedCifarAligner, loader: DataLoader) -> tuple[Tensor, list[PredictedCaption]]:
    """Unit-length embeddings of all pairs `(num_pairs, D)`, and the best caption of each."""
    embeds, best = [], []
    for batch in loader:
        pixel_values = batch["pixel_values"].to(model.device)
        embeds.append(model(pixel_values).image_embeds)
        best += [captions[0] for captions in model.predict_captions(pixel_values, k=1)]
    return torch.cat(embeds), best


def class_confusion(pairs: ImagePairs, predicted: Tensor) -> Tensor:
    """How often each class was taken for each class, on either side."""
    truth, seen = (
        torch.cat([ids // pairs.num_classes, ids % pairs.num_classes]) for ids in (pairs.caption_ids, predicted)
    )
    return confusion_matrix(truth, seen, pairs.num_classes)


def write_tables(confusion: Tensor, class_names: list[str], folder: Path) -> None:
    """The accuracy of each class, and the most frequent confusions."""
    shares = confusion.diag() / confusion.sum(dim=1).clamp(min=1)
    accuracies = [
        (name, int(row.sum()), f"{share:.4f}") for name, row, share in zip(class_names, confusion, shares, strict=True)
    ]
    confusions = frequent_confusions(confusion, class_names, limit=50)
    for name, header, rows in (
        ("classes", ("class", "images", "accuracy"), accuracies),
        ("confusions", ("true", "predicted", "times"), confusions),
    ):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    main()
