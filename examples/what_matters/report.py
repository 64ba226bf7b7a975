"""Report of the results of ablation.py: tables, comparisons and plots."""

import csv
import json
import math
from collections import defaultdict
from pathlib import Path

from report_plots import plot_against, plot_quality
from runs import BASELINES, Result, Rows, baselines_of, mean_of, metric_mean, metric_of, score_of_runs, scores_of
from verdicts import PUBLISHED, Difference, Score, compare, is_learnt, published_order

TITLES = {
    "five": "Fusion and training of the backbones",
    "tokens": "Number of image tokens",
    "depth": "Depth of the Perceiver",
    "splitting": "Image splitting",
    "aspect": "Aspect ratio",
    "backbones": "Size of the backbones (published finding: the language model matters more than the vision tower)",
    "captions": "Captions",
}


def write_report(results: list[Result], folder: Path) -> None:
    """Write results.json, results.csv, report.md, quality_<study>.png and quality_against_<cost>.png.

    Args:
        results: One result of ablation.py per study, row and seed. The first metric is the main score. `accuracy` and
            metrics with this prefix are fractions. Diverged runs may have no metrics.
        folder: Output folder.

    Raises:
        ValueError: If `results` is empty, contains a study, row and seed twice, or contains an unknown study.
    """
    studies: dict[str, Rows] = defaultdict(lambda: defaultdict(list))
    for result in results:
        studies[result["study"]][result["row"]].append(result)
    runs = [(result["study"], result["row"], result["seed"]) for result in results]
    if not runs or len(set(runs)) < len(runs) or not studies.keys() <= TITLES.keys():
        raise ValueError(
            f"`results` must contain at least one run, no run twice, and only the studies {', '.join(TITLES)}, but got "
            f"{runs}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=2))
    _write_csv(results, folder / "results.csv")
    ordered = {study: studies[study] for study in TITLES if study in studies}
    (folder / "report.md").write_text(_report(ordered))
    for study, rows in ordered.items():
        plot_quality(study, rows).savefig(folder / f"quality_{study}.png", dpi=150)
    for cost, label in (("image_tokens", "image tokens"), ("prefill_ms", "prefill, milliseconds")):
        figure = plot_against(ordered, cost, label)
        figure.savefig(folder / f"quality_against_{cost}.png", dpi=150)


def _report(studies: dict[str, Rows]) -> str:
    lines = [
        "# Ablation of vision-language model designs",
        "",
        "| study | rows | seeds | steps | questions | device |",
        "|---|---|---|---|---|---|",
    ]
    for study, rows in studies.items():
        runs = [run for row in rows.values() for run in row]
        facts = [", ".join(_distinct(runs, name)) for name in ("seed", "steps", "num_questions", "device")]
        lines.append(f"| {study} | {len(rows)} | {' | '.join(facts)} |")
    lines += ["", *_failures(studies), *_method(studies)]
    for study, rows in studies.items():
        lines += ["", f"## {TITLES[study]}", "", *_table(study, rows), "", *_comparisons(study, rows)]
        lines += ["", f"![quality of each row](quality_{study}.png)"]
    lines += ["", "## Quality and cost", ""]
    lines += [f"![quality against {cost}](quality_against_{cost}.png)" for cost in ("image_tokens", "prefill_ms")]
    return "\n".join(lines) + "\n"


def _failures(studies: dict[str, Rows]) -> list[str]:
    """List rows that did not learn, diverged or lack a seed."""
    rows = {f"{study}: {name}": (runs, rows) for study, rows in studies.items() for name, runs in rows.items()}
    verdicts = {name: _has_learned(runs) for name, (runs, _) in rows.items()}
    not_learned, unknown = ([name for name in rows if verdicts[name] == word] for word in ("no", "unknown"))
    lines = [f"**Did not learn** ({len(not_learned)} of {len(rows)} rows): {'; '.join(not_learned) or 'none'}."]
    if unknown:
        lines += ["", f"Unknown, because a score, a standard error or a baseline is missing: {'; '.join(unknown)}."]
    for name, (runs, study) in rows.items():
        planned = {run["seed"] for others in study.values() for run in others}
        missing = sorted(planned - {run["seed"] for run in runs})
        if missing:
            lines += ["", f"Missing: {name}, seed {', '.join(map(str, missing))}."]
        for run in runs:
            if run["diverged"]:
                end = f"at step {run['diverged']['step']}: {run['diverged']['reason']}"
                lines += ["", f"Diverged: {name}, seed {run['seed']}, {end}."]
    return lines


def _method(studies: dict[str, Rows]) -> list[str]:
    runs = [row for rows in studies.values() for row in rows.values()]
    lines = [
        "",
        "Scores are means ± standard deviations over seeds. Accuracies and their differences are in per cent. A row "
        "has learned if its mean exceeds every baseline by more than two standard errors. Two rows differ if their "
        "means differ by more than two standard errors of the difference. The standard error combines the standard "
        "deviation s over n seeds and, for accuracies p, the sampling error of N questions: sqrt(s²/n + p(1 - p)/N). "
        "With two or three seeds, this bound is lenient. A diverged run counts with its score at the stop, if any.",
    ]
    if any(score_of_runs(row).seeds == 1 for row in runs):
        lines += [
            "",
            "Rows with a single seed: the standard error includes only the sampling error of the questions, if any.",
        ]
    return lines


def _table(study: str, rows: Rows) -> list[str]:
    metric = metric_of(rows)
    columns = [
        *("row", metric, "by kind", "baselines", "learned", "parameters, M (total, trained)", "image tokens"),
        *("prefill ms", "peak MB", "minutes"),
        *(["published"] if study == "five" else []),
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, runs in rows.items():
        score = score_of_runs(runs)
        kinds = dict.fromkeys(key for run in runs for key in run["metrics"] if key.startswith(f"{metric}/"))
        baselines = [key for key in BASELINES if any(key in run["metrics"] for run in runs)]
        cells = [
            name,
            _mean_and_deviation(score, metric),
            ", ".join(f"{kind.partition('/')[2]} {_number(metric_mean(runs, kind), metric)}" for kind in kinds),
            ", ".join(f"{BASELINES[key]} {_number(metric_mean(runs, key), metric)}" for key in baselines),
            _has_learned(runs),
            ", ".join(f"{runs[0]['parameters'][part] / 1e6:.2f}" for part in ("total", "trained")),
            *(_plain(mean_of([run.get(cost) for run in runs])) for cost in ("image_tokens", "prefill_ms", "peak_mb")),
            _plain(mean_of([run.get("seconds") for run in runs]) / 60),
            *([f"{PUBLISHED[name]:g}" if name in PUBLISHED else "-"] if study == "five" else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _comparisons(study: str, rows: Rows) -> list[str]:
    """Compare the study `five` with the published order, and the rows of other studies with their first row."""
    metric, scores = metric_of(rows), {name: score_of_runs(runs) for name, runs in rows.items()}
    learned = {name: _has_learned(runs) == "yes" for name, runs in rows.items()}

    def describe(name: str, other: str, difference: Difference) -> str:
        if math.isnan(difference.value):
            return "no score"
        sign = "+" if difference.value >= 0 else "-"
        remark = "" if learned[name] or learned[other] else " (neither row is known to have learned)"
        return f"{sign}{_number(abs(difference.value), metric)} ± {_number(difference.error, metric)}{remark}"

    if study != "five":
        first, *others = rows
        compared = {name: compare(scores[name], scores[first]) for name in others}
        lines = [f"- {name}: {describe(name, first, found)}, {found.verdict}" for name, found in compared.items()]
        if study == "backbones" and len(others) == 2:  # also compare both exchanges with each other
            found = compare(scores[others[1]], scores[others[0]])
            lines.append(
                f"- {others[1]} compared with {others[0]}: {describe(others[1], others[0], found)}, {found.verdict}"
            )
        return [f"Compared with {first} (difference ± standard error of the difference):", "", *lines] if lines else []
    lines = ["Agreement with the published order (difference ± standard error of the difference):", ""]
    for lower, higher, published, ours, verdict in published_order(scores):
        own = describe(higher, lower, ours) if ours else "none"
        lines.append(f"- {higher} over {lower}: published +{published:.1f}, ours {own}: {verdict}")
    return lines


def _has_learned(runs: list[Result]) -> str:
    """Return "yes", "no" or "unknown". A row has not learned if all its runs diverged without a score."""
    scores, num_questions = scores_of(runs)
    if all(run["diverged"] for run in runs) and not any(map(math.isfinite, scores)):
        return "no"
    return {True: "yes", False: "no", None: "unknown"}[is_learnt(scores, baselines_of(runs), num_questions)]


def _distinct(runs: list[Result], name: str) -> list[str]:
    return list(dict.fromkeys(str(run.get(name, "not recorded")) for run in runs))


def _plain(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _number(value: float, metric: str) -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.3f}"


def _mean_and_deviation(score: Score, metric: str) -> str:
    mean = _number(score.mean, metric)
    return mean if score.seeds < 2 else f"{mean} ± {_number(score.deviation, metric)}"


def _write_csv(results: list[Result], path: Path) -> None:
    nested = ("metrics", "parameters", "diverged")
    rows = []
    for result in results:
        flat = {name: value for name, value in result.items() if name not in nested}
        flat |= {f"{part}/{name}": value for part in nested for name, value in (result[part] or {}).items()}
        rows.append(flat)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(rows)
