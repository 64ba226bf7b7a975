"""Tables and plots over the cells of scaling_grid.py."""

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

# "Which side should we scale?": Recall@5, mean of both directions, 200 queries, a single run each.
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
        results: one per vision backbone, text backbone and seed, as `run_cell` returns them.
        folder: where the files go.
        cutoffs: of Recall@K; the heatmap shows K = 5, or the middle one where there is no 5.
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
    """A short label for each name; the whole name where two short ones would be the same."""
    counts = Counter(short(name) for name in dict.fromkeys(names))
    return {name: short(name) if counts[short(name)] == 1 else name for name in names}


def short(name: str) -> str:
    """The last part of the path or hub id, without timm's training tag."""
    kind, _, place = name.rpartition(":")
    return (f"{kind} " if kind else "") + re.sub(r"\.[a-z]\w*$", "", Path(place).name)


def deviation(values: list[float]) -> float:
    """Standard deviation over seeds; 0 for a single one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def sampling_error(recall: float, queries: int) -> float:
    """Standard error of a recall that was measured on so many queries."""
    return (recall * (1 - recall) / queries) ** 0.5


def published_recall(cell: Cell) -> float:
    """The paper's figure for a cell of its grid, else NaN."""
    vision, text = map(short, cell)
    return PUBLISHED.get((vision.partition("_patch")[0], text), float("nan"))


def _summary(
    cells: dict[Cell, list[dict[str, Any]]], recalls: dict[Cell, list[float]], label: dict[str, str], k: int
) -> str:
    first = next(iter(cells.values()))[0]
    lines = [
        f"Protocol `{first['protocol']}`: {first['test_images']} test images, {first['test_captions']} test captions.",
        f"Recall@{k} in per cent, mean of both directions: mean ± standard deviation over seeds; ± test is the",
        "standard error that the size of the test set alone causes. Parameters in millions: loaded by the original",
        "system, read by a forward pass, trained.",
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
