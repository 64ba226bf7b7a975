"""Verdicts in closed form, and the report of a few made-up results."""

import csv
import importlib
import json
import math
from pathlib import Path

import pytest
from PIL import Image
from tests.examples.scripts import importable


@pytest.fixture
def report():
    with importable("what_matters"):
        yield importlib.import_module("report")


@pytest.fixture
def verdicts():
    with importable("what_matters"):
        yield importlib.import_module("verdicts")


def result(row: str, accuracy: float | None = 0.8, seed: int = 0, study: str = "five", **changes) -> dict:
    metrics = {} if accuracy is None else {"accuracy": accuracy, "accuracy/color": 0.9, "majority": 0.3}
    return {
        "study": study,
        "row": row,
        "seed": seed,
        "metrics": metrics and {**metrics, "text_only": 0.35},
        "train_loss": 1.5,
        "diverged": None,
        "parameters": {"total": 3_000_000, "trained": 250_000},
        "image_tokens": 64,
        "prefill_ms": 12.5,
        "peak_mb": 700,
        "seconds": 120,
        "num_questions": 500,
        "steps": 300,
        "device": "2 CPU cores",
        **changes,
    }


def written(report, folder: Path, results: list[dict]) -> str:
    report.write_report(results, folder)
    return (folder / "report.md").read_text()


def test_the_error_joins_seeds_and_questions(verdicts):
    score = verdicts.score_of([0.4, 0.6], num_answers=100)
    assert score.mean == pytest.approx(0.5)
    assert score.deviation == pytest.approx(math.sqrt(0.02))
    assert score.error == pytest.approx(math.sqrt(0.02 / 2 + 0.25 / 100))
    assert verdicts.score_of([0.4, 0.6]).error == pytest.approx(0.1)
    assert verdicts.score_of([0.5, math.nan], 100) == (0.5, 0.0, 0.05, 1)
    assert math.isnan(verdicts.score_of([0.5]).error)
    assert verdicts.score_of([math.nan], 100).seeds == 0


@pytest.mark.parametrize(("scores", "num_answers"), [([0.5], 0), ([1.2], 10), ([-0.1], 10)])
def test_answers_need_fractions(verdicts, scores, num_answers):
    with pytest.raises(ValueError, match="`scores` must be fractions between 0 and 1 of at least 1 answer"):
        verdicts.score_of(scores, num_answers)


def test_learnt_is_two_standard_errors_above_both_baselines(verdicts):
    # One standard error of 0.5 over 100 questions is 0.05.
    assert verdicts.is_learnt([0.5], [0.39, 0.2], 100) is True
    assert verdicts.is_learnt([0.5], [0.2, 0.39], 100) is True
    assert verdicts.is_learnt([0.5], [0.41, 0.2], 100) is False
    assert verdicts.is_learnt([0.5], [0.2, 0.41], 100) is False
    assert verdicts.is_learnt([0.3, 0.7], [0.2], 100) is False  # the seeds differ too much


def test_what_cannot_be_known_is_not_guessed(verdicts):
    assert verdicts.is_learnt([0.5], [0.1], None) is None
    assert verdicts.is_learnt([], [0.1], 100) is None
    assert verdicts.is_learnt([0.5], [], 100) is None
    assert verdicts.is_learnt([0.5], [0.1, math.nan], 100) is None
    assert verdicts.compare(verdicts.score_of([0.5]), verdicts.score_of([0.1])).verdict.startswith("unknown")


def test_a_difference_is_beyond_two_standard_errors(verdicts):
    score = verdicts.score_of
    found = verdicts.compare(score([0.66], 100), score([0.5], 100))
    assert found.value == pytest.approx(0.16)
    assert found.error == pytest.approx(math.sqrt((0.66 * 0.34 + 0.25) / 100))
    assert found.verdict == "higher"
    assert verdicts.compare(score([0.5], 100), score([0.66], 100)).verdict == "lower"
    none = "no difference beyond two standard errors"
    assert verdicts.compare(score([0.6], 100), score([0.5], 100)).verdict == none
    assert verdicts.compare(score([0.6], 1000), score([0.5], 1000)).verdict == "higher"


def test_the_published_order(verdicts):
    assert list(verdicts.PUBLISHED.values()) == [51.8, 60.3, 66.7, 67.3, 69.5]
    ours = dict(zip(verdicts.PUBLISHED, (0.2, 0.6, 0.4, 0.41), strict=False))
    pairs = verdicts.published_order({row: verdicts.score_of([mean], 500) for row, mean in ours.items()})
    assert [verdict for *_, verdict in pairs] == ["agrees", "disagrees", "not distinguishable", "not run"]
    assert [round(published, 1) for _, _, published, _, _ in pairs] == [8.5, 6.4, 0.6, 2.2]


def test_results_are_written_and_read_back(report, verdicts, tmp_path):
    results = [result(row, 0.5, seed) for row in verdicts.PUBLISHED for seed in (0, 1)]
    results += [result("64", 0.8, study="tokens"), result("16", 0.4, study="tokens", image_tokens=16)]
    written(report, tmp_path, results)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results)
    assert (rows[-1]["row"], rows[-1]["metrics/accuracy"]) == ("16", "0.4")
    assert rows[0]["parameters/trained"] == "250000"
    plots = {path.name for path in tmp_path.glob("*.png")}
    costs = {"quality_against_image_tokens.png", "quality_against_prefill_ms.png"}
    assert plots == {"quality_five.png", "quality_tokens.png", *costs}
    for name in plots:
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("L").getcolors()) > 10


def test_the_report_says_what_was_run_and_found(report, verdicts, tmp_path):
    rows = list(verdicts.PUBLISHED)
    results = [result(rows[0], 0.36, seed) for seed in (0, 1)] + [
        result(rows[1], a, s) for s, a in enumerate((0.7, 0.8))
    ]
    text = written(report, tmp_path, results)
    assert text.splitlines()[4] == "| five | 2 | 0, 1 | 300 | 500 | 2 CPU cores |"
    assert f"**Did not learn** (1 of 2 rows): five: {rows[0]}." in text
    assert (
        f"| {rows[1]} | 75.0 ± 7.1 | color 90.0 | majority 30.0, text-only 35.0 | yes | 3.00, 0.25 | 64.0 | 12.5 | "
        "700.0 | 2.0 | 60.3 |"
    ) in text
    assert f"- {rows[1]} over {rows[0]}: published +8.5, ours +39.0 ± 5.8: agrees" in text
    assert f"- {rows[2]} over {rows[1]}: published +6.4, ours none: not run" in text
    assert "single seed" not in text


def test_rows_are_held_against_the_first_of_their_study(report, tmp_path):
    results = [result(row, score, study="depth") for row, score in (("3", 0.8), ("1", 0.5), ("6", 0.81), ("9", 0.9))]
    text = written(report, tmp_path, results)
    assert "Compared with 3 (difference ± standard error of the difference)" in text
    assert "- 1: -30.0 ± 2.9, lower" in text
    assert "- 6: +1.0 ± 2.5, no difference beyond two standard errors" in text
    assert "- 9: +10.0 ± 2.2, higher" in text
    assert "published" not in text.partition("## Depth")[2]
    assert "Rows with a single seed: the standard error includes only the sampling error of the questions" in text


def test_two_rows_that_did_not_learn_prove_little(report, tmp_path):
    text = written(report, tmp_path, [result("3", 0.3, study="depth"), result("1", 0.1, study="depth")])
    assert "- 1: -20.0 ± 2.4 (neither row is known to have learned), lower" in text


def test_a_missing_seed_is_named(report, tmp_path):
    results = [result("3", 0.8, 0, "depth"), result("3", 0.8, 1, "depth"), result("1", 0.8, 1, "depth")]
    assert "Missing: depth: 1, seed 0." in written(report, tmp_path, results)


def test_a_diverged_row_is_part_of_the_report(report, verdicts, tmp_path):
    rows, why = list(verdicts.PUBLISHED), {"step": 12, "reason": "loss is nan"}
    results = [result(rows[0], None, diverged=why, train_loss=math.nan, prefill_ms=None), result(rows[1], 0.8)]
    results += [result(rows[2], 0.8), result(rows[2], None, seed=1, diverged=why)]
    text = written(report, tmp_path, results)
    assert f"**Did not learn** (1 of 3 rows): five: {rows[0]}." in text
    assert f"Diverged: five: {rows[0]}, seed 0, at step 12: loss is nan." in text
    assert f"Diverged: five: {rows[2]}, seed 1, at step 12: loss is nan." in text
    assert f"| {rows[0]} | - |  |  | no |" in text
    assert f"- {rows[1]} over {rows[0]}: published +8.5, ours no score: not distinguishable" in text


def test_captions_have_no_sampling_error(report, tmp_path):
    def captions(row: str, cider: float, seed: int) -> dict:
        metrics = {"cider": cider, "cider_shuffled": 0.1, "cider_no_image": 0.2}
        return result(row, seed=seed, study="captions", metrics=metrics)

    results = [captions("mlp", 0.5, 0), captions("mlp", 0.6, 1), captions("perceiver", 0.7, 0)]
    text = written(report, tmp_path, results)
    assert "| mlp | 0.550 ± 0.071 |  | shuffled images 0.100, no image 0.200 | yes |" in text
    assert "Unknown, because a score, a standard error or a baseline is missing: captions: perceiver." in text


@pytest.mark.parametrize(
    "results", [[], [result("a"), result("a")], [result("a", study="colours")]], ids=["none", "twice", "study"]
)
def test_results_that_make_no_report(report, tmp_path, results):
    with pytest.raises(ValueError, match="must contain at least one run, no run twice, and only the studies five"):
        report.write_report(results, tmp_path)
