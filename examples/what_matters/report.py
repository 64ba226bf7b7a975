"""Verdicts, tables and plots over the rows of ablation.py."""

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
    "backbones": "Exchange of backbones (published finding: the language model matters more than the vision tower)",
    "captions": "Captions",
}


def write_report(results: list[Result], folder: Path) -> None:
    """Write results.json, results.csv, report.md, quality_<study>.png and, with costs, quality_against_<cost>.png.

    Args:
        results: one per study, row and seed, as ablation.py makes them. The first metric is the score; `accuracy` and
            what begins with it are fractions. A run that diverged may have no metrics.
        folder: where the files go.

    Raises:
        ValueError: there are no results, two are of the same study, row and seed, or a study is unknown.
    """
    studies: dict[str, Rows] = defaultdict(lambda: defaultdict(list))
    for result in results:
        studies[result["study"]][result["row"]].append(result)
    runs = [(result["study"], result["row"], result["seed"]) for result in results]
    if not runs or len(set(runs)) < len(runs) or not studies.keys() <= TITLES.keys():
        raise ValueError(
            f"the runs {runs} must be at least one, each once, and their studies among {', '.join(TITLES)}"
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
        "# What matters: what was run",
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
    """Which rows did not learn, diverged, or lack a seed."""
    rows = {f"{study}: {name}": (runs, rows) for study, rows in studies.items() for name, runs in rows.items()}
    verdicts = {name: _learnt(runs) for name, (runs, _) in rows.items()}
    not_learnt, unknown = ([name for name in rows if verdicts[name] == word] for word in ("no", "unknown"))
    lines = [f"**Did not learn** ({len(not_learnt)} of {len(rows)} rows): {'; '.join(not_learnt) or 'none'}."]
    if unknown:
        lines += ["", f"Unknown, for want of a score, a standard error or a baseline: {'; '.join(unknown)}."]
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
        "Scores are means ± standard deviations over seeds; accuracies and their differences are in per cent. A row "
        "has learnt if it is above every baseline by more than two standard errors, and rows differ if their means "
        "do by more than two. The standard error joins the deviation over seeds and, for accuracies, the number of "
        "questions: sqrt(s²/n + p(1 - p)/N). With two or three seeds this is a lenient bound. A run that diverged "
        "counts with the score that it had when it was stopped, if it has one.",
    ]
    if any(score_of_runs(row).seeds == 1 for row in runs):
        lines += ["", "Rows with the score of a single seed: the standard error is of the questions alone, if any."]
    return lines


def _table(study: str, rows: Rows) -> list[str]:
    metric = metric_of(rows)
    columns = [
        *("row", metric, "by kind", "baselines", "learnt?", "parameters, M (total, trained)", "image tokens"),
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
            _learnt(runs),
            ", ".join(f"{runs[0]['parameters'][part] / 1e6:.2f}" for part in ("total", "trained")),
            *(_plain(mean_of([run.get(cost) for run in runs])) for cost in ("image_tokens", "prefill_ms", "peak_mb")),
            _plain(mean_of([run.get("seconds") for run in runs]) / 60),
            *([f"{PUBLISHED[name]:g}" if name in PUBLISHED else "-"] if study == "five" else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _comparisons(study: str, rows: Rows) -> list[str]:
    """The published order for the five rows; every row against the first one for other studies."""
    metric, scores = metric_of(rows), {name: score_of_runs(runs) for name, runs in rows.items()}
    learnt = {name: _learnt(runs) == "yes" for name, runs in rows.items()}

    def told(name: str, other: str, difference: Difference) -> str:
        if math.isnan(difference.value):
            return "no score"
        sign = "+" if difference.value >= 0 else "-"
        remark = "" if learnt[name] or learnt[other] else " (neither is known to have learnt)"
        return f"{sign}{_number(abs(difference.value), metric)} ± {_number(difference.error, metric)}{remark}"

    if study != "five":
        first, *others = rows
        compared = {name: compare(scores[name], scores[first]) for name in others}
        lines = [f"- {name}: {told(name, first, found)}, {found.verdict}" for name, found in compared.items()]
        if study == "backbones" and len(others) == 2:  # which of the two matters more is the question
            found = compare(scores[others[1]], scores[others[0]])
            lines.append(f"- {others[1]} against {others[0]}: {told(others[1], others[0], found)}, {found.verdict}")
        return [f"Against {first} (difference ± its standard error):", "", *lines] if lines else []
    lines = ["Does our order agree with the published one (difference ± its standard error)?", ""]
    for lower, higher, published, ours, verdict in published_order(scores):
        own = told(higher, lower, ours) if ours else "none"
        lines.append(f"- {higher} over {lower}: published +{published:.1f}, ours {own}: {verdict}")
    return lines


def _learnt(runs: list[Result]) -> str:
    """Yes, no or unknown; runs that all diverged without a score have not learnt."""
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
