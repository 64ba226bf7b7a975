"""What is done with a trained captioner: captions of files, scores, analyses."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests import tiny
from tests.data.sources import coco_folders
from tests.examples.qformer_captioner_runs import (
    BLOCK,
    BLOCKS,
    ODD_WORDS,
    RECIPE,
    SPLITS,
    TABLE,
    TOKENS,
    run,
    write_models,
    write_photos,
    write_recipe,
)
from transformers import AutoModel, AutoProcessor

from vlmkit.analysis import caption_plots


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A captioner that has begun to learn, in `run`."""
    folder = tmp_path_factory.mktemp("qformer_captioner_use")
    write_models(folder)
    write_photos(folder / "flickr8k")
    write_recipe(folder / "one.yaml", max_steps=6, per_device_train_batch_size=4, output_dir="run")
    run(folder, "train.py", "one.yaml")
    return folder


def write_album(folder: Path) -> None:
    """Images of every kind, and files that are none."""
    folder.mkdir()
    for seed, name in enumerate(["a.jpg", "b.jpeg", "c.png", "d.bmp", "e.webp", "f.JPG", "g.Png"]):
        tiny.photo(seed=seed).save(folder / name)
    tiny.photo().convert("RGBA").save(folder / "h.png")
    Image.fromarray(np.arange(0, 64_000, 40, dtype=np.uint16).reshape(40, 40)).save(folder / "i.png")
    (folder / "corrupt.jpg").write_bytes(b"\xff\xd8 no image")
    (folder / "truncated.jpg").write_bytes((folder / "a.jpg").read_bytes()[:400])
    (folder / "text.png").write_text("a text")
    (folder / "notes.txt").write_text("no image, and not called one")
    (folder / "more.jpg").mkdir()


READABLE = ["a.jpg", "b.jpeg", "c.png", "d.bmp", "e.webp", "f.JPG", "g.Png", "h.png", "i.png"]
UNREADABLE = ["corrupt.jpg", "more.jpg", "text.png", "truncated.jpg"]


@pytest.fixture(scope="module")
def album(place) -> Path:
    write_album(place / "album")
    return place / "album"


def test_caption_files_and_folders(place, album):
    prompt = f"a {' '.join(ODD_WORDS)}"
    flags = ["--model", "run", "--images", "album", "album/c.png", "--output_dir", "captions"]
    output = run(place, "caption.py", *flags, "--prompt", prompt, "--batch_size", 4, "--gallery_size", 5)
    results = json.loads((place / "captions/captions.json").read_text(encoding="utf-8"))
    files = [f"album/{name}" for name in [*READABLE, "c.png"]]
    assert [row["image"] for row in results["captions"]] == files
    assert all(row["caption"].startswith(prompt) for row in results["captions"])
    assert [row["image"] for row in results["skipped"]] == [f"album/{name}" for name in UNREADABLE]
    assert all(row["error"] for row in results["skipped"])
    with open(place / "captions/captions.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == results["captions"]
    assert "犬" in (place / "captions/captions.json").read_text(encoding="utf-8")  # not escaped
    assert Image.open(place / "captions/gallery.png").width > 100
    for name in UNREADABLE:
        assert f"skipped album/{name}: " in output
    assert "10 captioned, 4 skipped: captions" in output
    assert run(place, "caption.py", *flags, "--prompt", prompt) != ""
    again = json.loads((place / "captions/captions.json").read_text(encoding="utf-8"))
    assert again == results  # whatever the size of batches


def test_captions_are_drawn_from_a_seed(place, album):
    def captions(seed: int) -> list[str]:
        flags = ["--model", "run", "--images", "album", "--do_sample", "--seed", seed]
        run(place, "caption.py", *flags, "--output_dir", "drawn", "--gallery_size", 1)
        return [row["caption"] for row in json.loads((place / "drawn/captions.json").read_text())["captions"]]

    first = captions(0)
    assert captions(0) == first
    assert captions(1) != first


def test_images_that_are_none(place, album):
    (place / "empty").mkdir()
    (place / "broken").mkdir()
    (place / "broken/a.jpg").write_text("a text")
    for images, message in (
        (
            ["empty"],
            "`paths` must contain at least one image, but got empty. Files in folders must end in one of .bmp, ",
        ),
        (["album", "nowhere"], "nowhere does not exist. Pass image files or folders."),
        (["broken"], "None of the 1 images can be decoded"),
        (["album/notes.txt"], "None of the 1 images can be decoded"),
    ):
        for script in ("caption.py", "analyze.py"):
            with pytest.raises((OSError, ValueError), match=message):
                run(place, script, "--model", "run", "--images", *images, "--output_dir", "nothing")
    assert not (place / "nothing").exists()


def test_evaluate(place):
    flags = ["--model", "run", "--dataset", "flickr8k", "--data", "flickr8k", "--output_dir", "evaluation"]
    flags += ["--num_beams", RECIPE["num_beams"], "--max_new_tokens", RECIPE["max_new_tokens"]]
    output = run(place, "evaluate.py", *flags)
    metrics = json.loads((place / "evaluation/metrics.json").read_text())
    assert list(metrics) == ["model", "shuffled images", "one caption for all"]
    scored = json.loads((place / "run/test_metrics.json").read_text())
    assert metrics["model"] == pytest.approx(scored, abs=0.05)  # there, of tokens in float16
    assert metrics["one caption for all"]["cider"] > 0
    for name, values in metrics.items():
        assert values.keys() == scored.keys()
        assert name in output
    with open(place / "evaluation/predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [f"{i}.jpg" for i in SPLITS["test"]]
    own, of_next = ([row[name] for row in rows] for name in ("caption", "caption of the next image"))
    assert of_next == [*own[1:], own[0]]
    assert rows[0]["references"].count(" | ") == 1
    before = {path.name: path.read_bytes() for path in (place / "evaluation").iterdir()}
    run(place, "evaluate.py", *flags)
    assert {path.name: path.read_bytes() for path in (place / "evaluation").iterdir()} == before


def test_evaluate_without_training_images(place, tmp_path):
    """As with nothing but COCO's val2017 on the disk."""
    coco_folders.write_published(tmp_path)
    shutil.rmtree(tmp_path / "train2017")
    (tmp_path / "annotations/captions_train2017.json").unlink()
    flags = ["--dataset", "coco", "--data", tmp_path, "--output_dir", tmp_path / "scores", "--max_new_tokens", 4]
    run(place, "evaluate.py", "--model", "run", *flags)
    metrics = json.loads((tmp_path / "scores/metrics.json").read_text())
    assert metrics["one caption for all"]["bleu_1"] > 0
    with pytest.raises(
        SystemExit, match="must contain a training split and a validation or test split, but got validation"
    ):
        run(place, "train.py", "one.yaml", *flags[:4], "--output_dir", tmp_path / "refused")


def test_evaluate_scores_the_images_of_a_captions_file(place, tmp_path):
    coco_folders.write_published(tmp_path)
    flags = ["--data", tmp_path / "annotations/captions_val2017.json", "--image_folder", tmp_path / "val2017"]
    flags += ["--dataset", "coco", "--output_dir", tmp_path / "scores", "--max_new_tokens", 4]
    run(place, "evaluate.py", "--model", "run", *flags)
    with open(tmp_path / "scores/predictions.csv", newline="", encoding="utf-8") as file:
        references = {row["image_id"]: row["references"] for row in csv.DictReader(file)}
    assert references == {name: captions[0] for name, captions in coco_folders.CAPTIONS["val"].items()}


def test_pictures_show_what_the_model_saw(place, tmp_path, monkeypatch):
    """The processor crops the middle, so the margins of a wide image are no part of the picture."""
    Image.new("RGB", (96, 32), "red").save(tmp_path / "wide.png")
    drawn = []
    draw = caption_plots.similarity_figure
    monkeypatch.setattr(
        caption_plots,
        "similarity_figure",
        lambda image, *rest, **options: drawn.append(image) or draw(image, *rest, **options),
    )
    run(place, "analyze.py", "--model", "run", "--images", tmp_path / "wide.png", "--output_dir", tmp_path)
    assert [image.size for image in drawn] == [(32, 32)]


def test_analyze(place, album):
    names = ["b.jpeg", "corrupt.jpg", "h.png"]
    flags = ["--model", "run", "--images", *(f"album/{name}" for name in names)]
    output = run(place, "analyze.py", *flags, "--output_dir", "analysis", "--max_new_tokens", 5)
    assert "skipped album/corrupt.jpg: " in output
    folder = place / "analysis"
    for number, name in enumerate(["b.jpeg", "h.png"]):
        stem = f"{number:03}_{Path(name).stem}"
        assert (folder / f"{stem}_words.png").stat().st_size > 1000
        assert (folder / f"{stem}_similarity.png").stat().st_size > 1000
        arrays = np.load(folder / f"{stem}_words.npz")
        assert f"album/{name}: {' '.join(arrays['words'])}\n" in output
        assert arrays["maps"].shape == (len(arrays["words"]), 2, 2)
        np.testing.assert_allclose(arrays["maps"].sum(axis=(1, 2)), 1, rtol=1e-5)
    assert "discriminative power of the global token: " in output
    report = (folder / "parameters.md").read_text()
    for heading, frozen in (("40%", 2), ("50%", 2), ("70%", 3)):
        assert f"## {heading} of the blocks frozen ({frozen} of {BLOCKS})" in report
    assert report.count("| total |") == 3
    assert f"| {2 * BLOCK + TABLE + 32:,} |" in report


def test_analyze_one_head_at_a_time(place, album):
    def maps(*flags: object) -> np.ndarray:
        images = ["--images", "album/a.jpg", "--max_new_tokens", 2]
        run(place, "analyze.py", "--model", "run", *images, "--output_dir", "heads", *flags)
        return np.load(place / "heads/000_a_words.npz")["maps"]

    of_heads = [maps("--head", head) for head in (0, 1)]
    np.testing.assert_allclose(np.mean(of_heads, axis=0), maps(), rtol=1e-4)
    assert not np.array_equal(maps("--query_head", 0), maps("--query_head", 1))
    assert not np.array_equal(maps("--layer", 0), maps())
    with pytest.raises(ValueError, match=r"`head` must be from 0 to 1, the index of a head, but got 2"):
        maps("--head", 2)
    with pytest.raises(ValueError, match="`layer` must be from -2 to 1, the index of a block, but got 5"):
        maps("--layer", 5)


def test_several_vision_layers(place, album):
    run(place, "train.py", "one.yaml", "--vision_layers", 1, 2, "--output_dir", "layers")
    assert AutoModel.from_pretrained(place / "layers").config.vision_layers == [1, 2]
    flags = ["--model", "layers", "--images", "album/a.jpg", "--output_dir", "layers_analysis"]
    run(place, "analyze.py", *flags, "--max_new_tokens", 3)
    arrays = np.load(place / "layers_analysis/000_a_words.npz")
    assert arrays["maps"].shape[1:] == (2, 2)
    np.testing.assert_allclose(arrays["maps"].sum(axis=(1, 2)), 1, rtol=1e-5)


def test_a_model_that_has_nothing_to_say(place, album):
    model = AutoModel.from_pretrained(place / "run")
    model.generation_config.forced_eos_token_id = None
    model.generation_config.suppress_tokens = [i for i in range(len(TOKENS) + 2) if i != len(TOKENS) + 1]
    model.save_pretrained(place / "silent")
    AutoProcessor.from_pretrained(place / "run").save_pretrained(place / "silent")
    flags = ["--model", "silent", "--images", "album/a.jpg", "--output_dir", "silence"]
    assert "album/a.jpg: \n" in run(place, "caption.py", *flags)
    output = run(place, "analyze.py", *flags)
    assert "album/a.jpg: no caption" in output
    assert (place / "silence/parameters.md").exists()
