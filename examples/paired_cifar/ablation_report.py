"""Tables and plot of the results of ablation.py."""

import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmkit.analysis.pair_plots import metric_ladder
from vlmkit.metrics import pair_chance

COLUMNS = ("top@1", "top@10", "top@100", "left_accuracy", "right_accuracy", "swapped_rate")


def write_report(results: list[dict[str, Any]], caption_ids: Tensor, num_classes: int, folder: Path) -> None:
    """Write results.json, results.csv, ladder.png and summary.md.

    Args:
        results: One result of `run_row` per row and seed.
        caption_ids: Caption ids of the evaluated pairs, from which the chance levels are computed.
        num_classes: Number of image classes.
        folder: Output folder.
    """
    (folder / "results.json").write_text(json.dumps(results, indent=2))
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        runs[result["row"]].append(result)
    columns = [name for name in COLUMNS if name in results[0]["metrics"]]
    tops = [name for name in columns if name.startswith("top@")]
    values = {name: [[run["metrics"][name] for run in rows] for rows in runs.values()] for name in columns}
    chance = pair_chance(caption_ids, num_classes=num_classes, cutoffs=[int(name.partition("@")[2]) for name in tops])

    with open(folder / "results.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "seed", "epochs", "parameters", "seconds", *columns])
        for result in results:
            fixed = [result[name] for name in ("row", "seed", "epochs", "parameters", "seconds")]
            writer.writerow([*fixed, *(result["metrics"][name] for name in columns)])

    lines = [f"| row | parameters | epochs | {' | '.join(columns)} | minutes |", "|---" * (len(columns) + 4) + "|"]
    for index, (row, repeats) in enumerate(runs.items()):
        cells = [mean_and_deviation(values[name][index]) for name in columns]
        size = f"{repeats[0]['parameters'] / 1e6:.2f}M | {repeats[0]['epochs']:g}"
        minutes = statistics.mean(run["seconds"] for run in repeats) / 60
        lines.append(f"| {row} | {size} | {' | '.join(cells)} | {minutes:.1f} |")
    references = ", ".join(f"{name} {chance[f'uniform/{name}']:.2%}" for name in tops)
    baselines = ", ".join(f"{name} {chance[f'same_class/{name}']:.2%}" for name in tops)
    lines += [
        "",
        "- top@k: per cent of pairs whose own caption is among the k most similar captions.",
        "- left_accuracy, right_accuracy: per cent of pairs whose most similar caption names the class of that side.",
        "- swapped_rate: per cent of pairs of two classes whose most similar caption names both on the wrong side.",
        "- minutes: training time. All values are means over the seeds; ± is the standard deviation over the seeds.",
        f"- Chance: {references}. Ranking all captions of equal classes first: {baselines} (dotted in ladder.png).",
    ]
    (folder / "summary.md").write_text("\n".join(lines) + "\n")

    means = {name: [statistics.mean(repeats) for repeats in values[name]] for name in tops}
    bounds = {name: chance[f"same_class/{name}"] for name in tops}
    metric_ladder(list(runs), metrics=means, references=bounds).savefig(folder / "ladder.png", dpi=150)


def mean_and_deviation(values: list[float]) -> str:
    """Format a mean in per cent, with the standard deviation if there are several seeds."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.2f}"
