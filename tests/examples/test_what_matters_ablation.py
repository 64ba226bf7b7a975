"""The ablation runs as a user would run it, with few steps."""

import json
from pathlib import Path

import pytest
from tests import tiny
from tests.examples import smolvlm_runs
from tests.examples.what_matters_runs import run
from transformers import LlamaForCausalLM

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

FLAGS = ["--steps", "2", "--batch_size", "2", "--lora_rank", "2", "--num_questions", "6", "--seeds", "0"]
SCENES = ["--num_train", "20", "--language_model_steps", "1", "--vision_tower_steps", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of one study."""
    place = tmp_path_factory.mktemp("ablation")
    run(place, "ablation.py", *FLAGS, *SCENES, "--studies", "depth", "--output_dir", place)
    return place


def results(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())


def test_every_row_tells_quality_and_cost(folder):
    rows = {result["row"]: result for result in results(folder)}
    assert list(rows) == ["3 layers", "1 layer"]
    for result in rows.values():
        metrics = result["metrics"]
        assert next(iter(metrics)) == "accuracy"
        assert {"accuracy/color", "accuracy/pattern", "accuracy/proportion", "majority", "text_only"} < metrics.keys()
        assert all(0 <= value <= 1 for value in metrics.values())
        assert (result["steps"], result["num_questions"], result["image_tokens"]) == (2, 6, 64)
        assert min(result["prefill_ms"], result["peak_mb"], result["train_loss"]) > 0
        assert result["diverged"] is None
    assert rows["3 layers"]["parameters"]["trained"] > rows["1 layer"]["parameters"]["trained"]


def test_the_report_is_written(folder):
    text = (folder / "report.md").read_text()
    assert "| 3 layers |" in text
    for name in ("results.csv", "quality_depth.png", "quality_against_image_tokens.png"):
        assert (folder / name).stat().st_size > 100


def test_a_second_run_computes_only_what_is_missing(folder):
    """A cell that another study shares is read, too."""
    [blind, *cells] = sorted((folder / "cells").iterdir())
    states = {path: path.stat().st_mtime_ns for path in (blind, *cells)}
    assert len(states) == 3
    run(folder, "ablation.py", *FLAGS, *SCENES, "--studies", "depth", "splitting", "--output_dir", folder)
    assert {path: path.stat().st_mtime_ns for path in states} == states
    assert len(list((folder / "cells").iterdir())) == 4  # split images are new, whole ones are not
    assert [result["row"] for result in results(folder)][2:] == ["whole image", "quarters and whole"]
    assert results(folder)[3]["image_tokens"] == 320


def test_captions_of_photographs(tmp_path):
    """With given backbones, beside the same model with other images and without."""
    smolvlm_runs.write_models(tmp_path)
    smolvlm_runs.write_photos(tmp_path / "flickr8k")
    config = tiny.llama_config(**tiny.CHAT_TOKENS, num_hidden_layers=4, tie_word_embeddings=True)
    config.max_position_embeddings = 256
    LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    tiny.chat_tokenizer().save_pretrained(tmp_path / "lm")
    flags = ["--data", tmp_path / "flickr8k", "--vision", tmp_path / "vision", "--text", tmp_path / "lm"]
    run(tmp_path, "ablation.py", *FLAGS, *flags, "--studies", "captions", "--output_dir", tmp_path / "out")
    rows = {result["row"]: result["metrics"] for result in results(tmp_path / "out")}
    assert list(rows) == [
        "autoregressive without Perceiver / frozen",
        "autoregressive / frozen",
        "cross-attention / frozen",
        "cross-attention / LoRA",
        "autoregressive / LoRA",
    ]
    for metrics in rows.values():
        assert next(iter(metrics)) == "cider"
        assert {"cider_shuffled", "cider_no_image", "bleu_4"} < metrics.keys()


def test_an_unknown_study_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"`--studies` must be one or more of five, .*, but got colours"):
        run(tmp_path, "ablation.py", "--studies", "colours", "--output_dir", tmp_path)
