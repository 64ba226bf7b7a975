"""Evaluate a saved aligner on held-out pairs, and plot confusions, errors, embeddings and attention.

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
    """Model, images and output folder."""

    model: str = field(metadata={"help": "Folder or hub id of a PairedCifarAligner."})
    data: str = field(default="uoft-cs/cifar100", metadata={"help": "Dataset, in any form that train.py accepts."})
    split: str = field(default="validation", metadata={"help": "Split to evaluate: train, validation or test."})
    num_validation: int = field(
        default=5000,
        metadata={"help": "Number of held-out training images. Use the value of the training, to exclude its images."},
    )
    output_dir: str = field(
        default="runs/paired_cifar_evaluation", metadata={"help": "Folder for metrics, tables and plots."}
    )
    batch_size: int = field(default=250, metadata={"help": "Number of pairs per batch."})
    projection: Literal["pca", "tsne"] = field(
        default="pca", metadata={"help": "Projection of the embeddings to two dimensions."}
    )
    num_examples: int = field(default=8, metadata={"help": "Number of pairs shown in the plots."})


def main() -> None:
    """Evaluate pairs of which half show a single class, and pairs of independent classes. Plot the latter."""
    [arguments] = parse_arguments(EvaluationArguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Only eager attention returns the attention weights for the plot.
    model = AutoModel.from_pretrained(arguments.model, attn_implementation="eager").to(device).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    tables = load_cifar100(arguments.data, num_validation=arguments.num_validation)
    if arguments.split not in tables:
        raise SystemExit(f"`--split` must be one of {', '.join(tables)}, but got {arguments.split!r}.")
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
    figures = {
        "confusion": draw_confusion(confusion, independent.class_names),
        "errors": draw_errors(independent, predicted, probabilities, arguments.num_examples),
        "embeddings": draw_embeddings(model, independent, embeds, arguments.projection),
        "occlusion": draw_occlusion(model, independent, examples),
        "attention": draw_attention(model, independent, examples),
    }
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=120)
    print(f"tables and plots: {folder}")


@torch.no_grad()
def encode(model: PairedCifarAligner, loader: DataLoader) -> tuple[Tensor, Tensor, Tensor]:
    """Encode all pairs.

    Returns:
        Embeddings `(num_pairs, D)`, ids of the most similar captions `(num_pairs,)`, and the probabilities of these
        captions `(num_pairs,)`.
    """
    embeds, predicted, probabilities = [], [], []
    for batch in loader:
        outputs = model(batch["pixel_values"].to(model.device))
        best = outputs.logits_per_image.softmax(dim=1).max(dim=1)
        embeds.append(outputs.image_embeds)
        predicted.append(best.indices.cpu())
        probabilities.append(best.values.cpu())
    return torch.cat(embeds), torch.cat(predicted), torch.cat(probabilities)


def class_confusion(pairs: ImagePairs, predicted: Tensor) -> Tensor:
    """Return the confusion matrix of the classes, `(C, C)`, in which both sides of every pair are counted."""
    true_classes, predicted_classes = (
        torch.cat([ids // pairs.num_classes, ids % pairs.num_classes]) for ids in (pairs.caption_ids, predicted)
    )
    return confusion_matrix(true_classes, predicted_classes, num_classes=pairs.num_classes)


def write_tables(confusion: Tensor, class_names: list[str], folder: Path) -> None:
    """Write CSV files of class accuracies, the most frequent confusions and the confusion matrices."""
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
    """Return a table with true classes as rows and predicted classes as columns."""
    return [["true", *names], *([name, *row] for name, row in zip(names, confusion.tolist(), strict=True))]


if __name__ == "__main__":
    main()
