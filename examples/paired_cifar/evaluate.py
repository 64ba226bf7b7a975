"""Score a saved aligner on held-out pairs, and draw what it sees and what it confuses.

python examples/paired_cifar/evaluate.py --model runs/paired_cifar_cpu --data uoft-cs/cifar100 --split validation
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pair_setup import CUTOFFS, print_metrics
from pictures import draw_attention, draw_confusion, draw_embeddings, draw_errors, draw_occlusion
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoProcessor

from vlmkit import PairedCifarAligner
from vlmkit.data import CIFAR100_SUPERCLASSES, ImagePairs, PairCollator, load_cifar100
from vlmkit.metrics import confusion_matrix, frequent_confusions, merge_classes, pair_metrics
from vlmkit.training import parse_arguments


@dataclass
class EvaluationArguments:
    """Which model, which images, and where the results go."""

    model: str = field(metadata={"help": "folder or hub id of a PairedCifarAligner"})
    data: str = field(default="uoft-cs/cifar100", metadata={"help": "as for train.py"})
    split: str = field(default="validation", metadata={"help": "train, validation or test"})
    num_validation: int = field(default=5000, metadata={"help": "as in training, or training images are scored"})
    output_dir: str = field(default="runs/paired_cifar_evaluation", metadata={"help": "metrics, tables and pictures"})
    batch_size: int = 250
    projection: Literal["pca", "tsne"] = field(default="pca", metadata={"help": "of the embedding map"})
    num_examples: int = field(default=8, metadata={"help": "pairs in the pictures"})


def main() -> None:
    """Score pairs of which half show one class, and pairs of independent classes; draw the latter."""
    [arguments] = parse_arguments(EvaluationArguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Eager attention returns its weights, which a picture needs.
    model = AutoModel.from_pretrained(arguments.model, attn_implementation="eager").to(device).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    tables = load_cifar100(arguments.data, num_validation=arguments.num_validation)
    if arguments.split not in tables:
        raise SystemExit(f"there is no split {arguments.split!r}; choose one of {', '.join(tables)}")
    halves = ImagePairs(tables[arguments.split], different_class_probability=0.5)
    independent = halves.with_pairs(different_class_probability=1 - 1 / halves.num_classes)
    collator = PairCollator(processor, halves.num_classes)

    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {}
    for name, pairs in (("half_of_one_class", halves), ("independent_classes", independent)):
        embeds, predicted, probabilities = encode(model, DataLoader(pairs, arguments.batch_size, collate_fn=collator))
        metrics[name] = pair_metrics(
            embeds, model.caption_embeds, caption_ids=pairs.caption_ids, num_classes=pairs.num_classes, cutoffs=CUTOFFS
        )
        print_metrics(metrics[name], pairs, f"{arguments.split}, {name.replace('_', ' ')}")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))

    confusion = class_confusion(independent, predicted)
    write_tables(confusion, independent.class_names, folder)
    examples = next(iter(DataLoader(independent, arguments.num_examples, collate_fn=collator)))
    pictures = {
        "confusion": draw_confusion(confusion, independent.class_names),
        "errors": draw_errors(independent, predicted, probabilities, arguments.num_examples),
        "embeddings": draw_embeddings(model, independent, embeds, arguments.projection),
        "occlusion": draw_occlusion(model, independent, examples),
        "attention": draw_attention(model, independent, examples),
    }
    for name, figure in pictures.items():
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=120)
    print(f"tables and pictures: {folder}")


@torch.no_grad()
def encode(model: PairedCifarAligner, loader: DataLoader) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of all pairs `(num_pairs, D)`, their best captions `(num_pairs,)`, and the probability of these."""
    embeds, predicted, probabilities = [], [], []
    for batch in loader:
        outputs = model(batch["pixel_values"].to(model.device))
        best = outputs.logits_per_image.softmax(dim=1).max(dim=1)
        embeds.append(outputs.image_embeds)
        predicted.append(best.indices.cpu())
        probabilities.append(best.values.cpu())
    return torch.cat(embeds), torch.cat(predicted), torch.cat(probabilities)


def class_confusion(pairs: ImagePairs, predicted: Tensor) -> Tensor:
    """How often each class was taken for each class, on either side."""
    truth, seen = (
        torch.cat([ids // pairs.num_classes, ids % pairs.num_classes]) for ids in (pairs.caption_ids, predicted)
    )
    return confusion_matrix(truth, seen, num_classes=pairs.num_classes)


def write_tables(confusion: Tensor, class_names: list[str], folder: Path) -> None:
    """The accuracy of each class, the most frequent confusions, and the whole confusion of classes and superclasses."""
    shares = (confusion.diag() / confusion.sum(dim=1).clamp(min=1)).tolist()
    images = confusion.sum(dim=1).tolist()
    accuracies = [(name, count, f"{share:.4f}") for name, count, share in zip(class_names, images, shares, strict=True)]
    merged = merge_classes(confusion, class_names=class_names, superclasses=CIFAR100_SUPERCLASSES)
    tables = {
        "classes": [("class", "images", "accuracy"), *accuracies],
        "confusions": [("true", "predicted", "times"), *frequent_confusions(confusion, class_names, limit=50)],
        "confusion_classes": with_names(confusion, class_names),
        "confusion_superclasses": with_names(merged, list(CIFAR100_SUPERCLASSES)),
    }
    for name, rows in tables.items():
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)


def with_names(confusion: Tensor, names: list[str]) -> list[list[Any]]:
    """Rows of a table: true classes downwards, predicted ones across."""
    return [["true", *names], *([name, *row] for name, row in zip(names, confusion.tolist(), strict=True))]


if __name__ == "__main__":
    main()
