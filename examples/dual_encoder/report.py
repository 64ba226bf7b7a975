"""Tables and plots of the results of scaling_grid.py."""

import csv
import json
import math
import re
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from vlmkit.analysis.plots import recall_heatmap, recall_versus_parameters

# "Which side should we scale?": Recall@5, averaged over both directions, 200 test images, one run per combination.
PUBLISHED = {
    ("vit_base", "gpt2"): 0.25,
    ("vit_base", "gpt2-medium"): 0.36,
    ("vit_base", "gpt2-large"): 0.35,
    ("vit_large", "gpt2"): 0.305,
    ("vit_large", "gpt2-medium"): 0.42,
    ("vit_large", "gpt2-large"): 0.425,
    ("vit_huge", "gpt2"): 0.345,
    ("vit_huge", "gpt2-medium"): 0.4225,
    ("vit_huge", "gpt2-large"): 0.435,
}

Cell = tuple[str, str]


def write_report(results: list[dict[str, Any]], folder: Path, cutoffs: list[int]) -> None:
    """Write results.json, results.csv, recall_heatmap.png, recall_versus_parameters.png and summary.md.

    Args:
        results: One result of `run_cell` per vision backbone, text backbone and seed.
        folder: Output folder.
        cutoffs: Values of K for Recall@K. Table and plots show K = 5, or the middle cutoff if 5 is not among them.
    """
    (folder / "results.json").write_text(json.dumps(results, indent=2))
    _write_csv(results, folder / "results.csv")
    k = 5 if 5 in cutoffs else sorted(cutoffs)[len(cutoffs) // 2]
    cells: dict[Cell, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        cells[(result["vision"], result["text"])].append(result)
    visions, texts = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    recalls = {cell: [run["metrics"][f"mean_recall@{k}"] for run in runs] for cell, runs in cells.items()}

    means = np.array([[np.mean(recalls.get((v, t), [np.nan])) for t in texts] for v in visions])
    published = np.array([[published_recall((v, t)) for t in texts] for v in visions])
    title = f"Recall@{k}, mean of both directions, protocol '{results[0]['protocol']}'"
    label = labels([*visions, *texts])
    rows, columns = [label[name] for name in visions], [label[name] for name in texts]
    figure = recall_heatmap(
        means,
        row_labels=rows,
        column_labels=columns,
        title=title,
        published=None if np.isnan(published).all() else published,
    )
    figure.savefig(folder / "recall_heatmap.png", dpi=150)
    parameters = [cells[cell][0]["parameters"]["computed"] for cell in cells]
    recall_versus_parameters(
        parameters,
        recalls=[statistics.mean(recalls[cell]) for cell in cells],
        labels=[label[vision] for vision, _ in cells],
        errors=[deviation(recalls[cell]) for cell in cells],
        series=[label[text] for _, text in cells],
    ).savefig(folder / "recall_versus_parameters.png", dpi=150)
    (folder / "summary.md").write_text(_summary(cells, recalls, label, k))


def labels(names: list[str]) -> dict[str, str]:
    """Map each model name to a short label. A name keeps its full form if its short label would not be unique."""
    counts = Counter(short(name) for name in dict.fromkeys(names))
    return {name: short(name) if counts[short(name)] == 1 else name for name in names}


def short(name: str) -> str:
    """Return the last part of a path or hub id, without the training tag of timm."""
    prefix, _, path = name.rpartition(":")
    return (f"{prefix} " if prefix else "") + re.sub(r"\.[a-z]\w*$", "", Path(path).name)


def deviation(values: list[float]) -> float:
    """Return the sample standard deviation over seeds, or 0 for a single seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def sampling_error(recall: float, queries: int) -> float:
    """Return the binomial standard error of a recall p that was measured on n queries, sqrt(p (1 - p) / n)."""
    return (recall * (1 - recall) / queries) ** 0.5


def published_recall(cell: Cell) -> float:
    """Return the published recall of a combination, or NaN if the paper does not report it."""
    vision, text = map(short, cell)
    return PUBLISHED.get((vision.partition("_patch")[0], text), float("nan"))


def _summary(
    cells: dict[Cell, list[dict[str, Any]]], recalls: dict[Cell, list[float]], label: dict[str, str], k: int
) -> str:
    first = next(iter(cells.values()))[0]
    lines = [
        f"Protocol `{first['protocol']}`: {first['test_images']} test images, {first['test_captions']} test captions.",
        "",
        "- loaded: parameters of both complete backbones and the projection, in millions.",
        "- computed: parameters that a forward pass uses, in millions.",
        "- trained: parameters that receive gradients, in millions.",
        f"- Recall@{k}: per cent, averaged over both directions; mean ± standard deviation over the seeds.",
        "- ± test: standard error from the size of the test set, sqrt(p (1 - p) / n) for a recall p on n test images.",
        "- seeds: number of runs. The deviation of a single run is shown as 0.",
        "- published: recall that the paper reports for the combination.",
        "",
        f"| vision | text | loaded | computed | trained | Recall@{k} | ± test | seeds | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, runs in cells.items():
        sizes = runs[0]["parameters"]
        mean = statistics.mean(recalls[cell])
        columns = [
            *(label[name] for name in cell),
            *(f"{sizes[name] / 1e6:.2f}" for name in ("loaded", "computed", "trained")),
            f"{100 * mean:.1f} ± {100 * deviation(recalls[cell]):.1f}",
            f"{100 * sampling_error(mean, first['test_images']):.1f}",
            str(len(runs)),
            "" if math.isnan(published_recall(cell)) else f"{100 * published_recall(cell):g}",
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _write_csv(results: list[dict[str, Any]], path: Path) -> None:
    rows = [
        {**{name: value for name, value in result.items() if not isinstance(value, dict)}, **flat}
        for result in results
        for flat in [{**result["parameters"], **result["metrics"]}]
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
