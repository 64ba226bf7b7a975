"""The scripts of examples/dual_encoder on folders, for a few steps."""

import csv
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tests import tiny
from tests.data.sources.flickr8k_folders import write_csv, write_images, write_lists
from tests.examples.scripts import importable, run_script, run_two_processes
from transformers import CLIPImageProcessor, GPT2Model, ViTImageProcessor, ViTModel

from vlmkit import DualEncoderProcessor

SPLITS = {"train": range(0, 16), "validation": range(16, 26), "test": range(26, 36)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A vision and a text model, and thirty-six photographs with two captions each."""
    folder = tmp_path_factory.mktemp("dual_encoder")
    torch.manual_seed(0)
    ViTModel(tiny.vision_config()).save_pretrained(folder / "vision")
    tiny.image_processor().save_pretrained(folder / "vision")
    GPT2Model(tiny.text_config()).save_pretrained(folder / "text")
    tiny.tokenizer().save_pretrained(folder / "text")

    names = [f"{number}.jpg" for number in range(36)]
    (folder / "flickr8k").mkdir()
    write_images(folder / "flickr8k" / "Images", names)
    words = tiny.WORDS
    captions = {
        name: [f"a {words[i % 7]} {words[i % 11]}", f"the {words[i % 5]} on {words[i % 13]}"]
        for i, name in enumerate(names)
    }
    write_csv(folder / "flickr8k" / "captions.txt", captions)
    write_lists(folder / "flickr8k", {split: [names[i] for i in rows] for split, rows in SPLITS.items()})
    return folder


def run(script: str, *flags: object, cwd: Path) -> str:
    return run_script(f"dual_encoder/{script}", *flags, cwd=cwd)


def train_flags(place: Path, output: Path) -> list[object]:
    models = ["--vision", place / "vision", "--text", place / "text", "--data", place / "flickr8k"]
    recipe = ["--protocol", "full", "--learning_rate", 0.01, "--num_train_epochs", 1, "--use_cpu"]
    return [*models, *recipe, "--output_dir", output]


def test_train_then_evaluate(place, tmp_path):
    flags = train_flags(place, tmp_path / "run")
    run("train.py", *flags, "--per_device_train_batch_size", 16, "--cache_features", cwd=tmp_path)
    metrics = json.loads((tmp_path / "run" / "test_results.json").read_text())
    assert 0 <= metrics["test_mean_recall@5"] <= 1
    card = (tmp_path / "run" / "README.md").read_text()
    assert "pip install vlmkit" in card
    assert "image_to_text/recall@5" in card

    flags = ["--model", tmp_path / "run", "--data", place / "flickr8k", "--protocol", "full"]
    output = run("evaluate.py", *flags, "--output_dir", tmp_path / "evaluation", cwd=tmp_path)
    assert "10 images, 20 captions" in output
    again = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert again["image_to_text/recall@5"] == pytest.approx(metrics["test_image_to_text/recall@5"], abs=1e-6)
    assert (tmp_path / "evaluation" / "similarity.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="`--split` must be one of train, validation, test, but got 'dev'"):
        run("evaluate.py", *flags, "--split", "dev", cwd=tmp_path)


def test_two_processes_train_what_one_trains(place, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run("train.py", *train_flags(place, one), "--cache_features", "--per_device_train_batch_size", 16, cwd=tmp_path)
    flags = [*train_flags(place, two), "--cache_features", "--per_device_train_batch_size", 8]
    output = run_two_processes("dual_encoder/train.py", *flags, cwd=tmp_path)
    assert "training in 2 processes" in output
    expected, weights = (load_file(folder / "model.safetensors") for folder in (one, two))
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_a_recipe_can_be_a_file_and_flags_win(place, tmp_path):
    settings = {
        "vision": str(place / "vision"),
        "text": str(place / "text"),
        "data": str(place / "flickr8k"),
        "protocol": "full",
        "text_features": "encoder",
        "projection": "shared",
        "freeze_text": False,
        "augment": True,
        "max_steps": 7,
        "learning_rate": 1e-3,
        "use_cpu": True,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    run("train.py", "recipe.yaml", "--max_steps", 2, "--output_dir", "run", cwd=tmp_path)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    with pytest.raises(SystemExit, match="--resume_from_checkpoint run/checkpoint-2"):  # not silently the old weights
        run("train.py", "recipe.yaml", "--output_dir", "run", cwd=tmp_path)
    assert (config["text_features"], config["projection"], config["freeze_text"]) == ("encoder", "shared", False)
    state = next(json.loads(path.read_text()) for path in (tmp_path / "run").glob("checkpoint-*/trainer_state.json"))
    assert state["global_step"] == 2


@pytest.fixture
def augmentation_for():
    """The function of that name in train.py."""
    with importable("dual_encoder"):
        yield importlib.import_module("train").augmentation_for


@pytest.mark.parametrize(
    "image_processor",
    [
        ViTImageProcessor(size={"height": 24, "width": 24}),
        CLIPImageProcessor(size={"shortest_edge": 24}, do_center_crop=False),  # its crop_size stays 224
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 24, "width": 24}),
    ],
)
def test_augmented_images_have_the_side_that_the_processor_gives(augmentation_for, image_processor):
    augmentation = augmentation_for(DualEncoderProcessor(image_processor, tiny.tokenizer()))
    assert augmentation(tiny.photo()).size == (24, 24)


def test_augmentation_leaves_left_and_right_where_they_are(augmentation_for):
    augmentation = augmentation_for(tiny.dual_encoder_processor())
    picture = Image.new("RGB", (40, 40), "black")
    picture.paste("white", (20, 0, 40, 40))
    torch.manual_seed(0)
    for _ in range(20):
        pixels = np.asarray(augmentation(picture), dtype=float)
        assert pixels[:, 0].mean() < pixels[:, -1].mean()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cache_features", "--augment"], "`--augment` and `--cache_features` cannot be combined"),
        (["--cache_features", "--freeze_text", "False"], "`--cache_features` requires frozen towers"),
        (["--text_features", "embeddings"], "invalid choice: 'embeddings'"),
        (["--tempreature", "1"], "--tempreature"),
    ],
)
def test_flags_that_cannot_be_are_refused(place, tmp_path, flags, message):
    with pytest.raises((SystemExit, ValueError), match=message):
        run("train.py", *train_flags(place, tmp_path / "run"), *flags, cwd=tmp_path)
    assert not (tmp_path / "run").exists()


def test_the_grid_goes_on_where_it_stopped(place, tmp_path):
    vision, text = place / "vision", place / "text"
    flags = ["--vision", vision, f"random:{vision}", "--text", text, f"encoder:{text}", "--seeds", 0, 1]
    flags += ["--data", place / "flickr8k", "--protocol", "full", "--num_train_epochs", 1, "--cutoffs", 1, 5]
    flags += ["--output_dir", tmp_path / "grid", "--use_cpu", "--disable_tqdm", "True"]
    output = run("scaling_grid.py", *flags, cwd=tmp_path)
    assert output.count("\ncell ") + output.startswith("cell ") == 8
    cells = sorted((tmp_path / "grid" / "cells").glob("*.json"))
    assert len(cells) == 8
    for name in ("results.json", "results.csv", "recall_heatmap.png", "recall_versus_parameters.png", "summary.md"):
        assert (tmp_path / "grid" / name).stat().st_size > 100

    before = {cell: cell.stat().st_mtime_ns for cell in cells}
    lost = json.loads(cells[3].read_text())
    cells[3].unlink()
    output = run("scaling_grid.py", *flags, cwd=tmp_path)
    assert output.count("\ncell ") + output.startswith("cell ") == 1
    assert [cell for cell in cells if cell.stat().st_mtime_ns != before[cell]] == [cells[3]]
    assert json.loads(cells[3].read_text())["metrics"] == pytest.approx(lost["metrics"])

    with (tmp_path / "grid" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    encoder, tables = (next(row for row in rows if row["text"] == name) for name in (f"encoder:{text}", str(text)))
    assert int(encoder["computed"]) == int(encoder["loaded"]) == int(tables["loaded"]) > int(tables["computed"])


def test_the_demo(tmp_path):
    flags = ["--num_train", 64, "--num_test", 16, "--max_steps", 2, "--use_cpu", "--output_dir", tmp_path / "demo"]
    output = run("demo.py", *flags, cwd=tmp_path)
    assert "16 images, 80 captions" in output
    assert "has the same metrics" in output
    assert (tmp_path / "demo" / "similarity.png").stat().st_size > 1000


def test_labels_do_not_collide():
    from examples.dual_encoder.report import labels

    assert labels(["timm/vit_small_patch16_224.augreg_in21k", "a/gpt2", "encoder:a/gpt2"]) == {
        "timm/vit_small_patch16_224.augreg_in21k": "vit_small_patch16_224",
        "a/gpt2": "gpt2",
        "encoder:a/gpt2": "encoder gpt2",
    }
    same = ["timm/vit_small.dino", "timm/vit_small.augreg"]
    assert labels(same) == {name: name for name in same}
    assert labels(["Qwen/Qwen2.5-0.5B"]) == {"Qwen/Qwen2.5-0.5B": "Qwen2.5-0.5B"}
