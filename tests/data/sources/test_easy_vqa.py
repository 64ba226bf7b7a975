"""Layouts and faults of easy-VQA, on a small folder that is drawn here."""

import json
import shutil
import sys
from pathlib import Path

import datasets
import pytest
from PIL import Image

from vlmkit.data import load_easy_vqa

QUESTIONS = {
    "train": [
        ["what color is the shape?", "red", 12],
        ["is there a circle?", "yes", 12],
        ["what shape is it?", "square", 3],
        ["is no circle present?", "no", 12],
    ],
    "test": [["is there a red shape?", "yes", 0]],
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """The package's folder `data`, with an image of which nothing is asked."""
    for split, questions in QUESTIONS.items():
        images = tmp_path / "data" / split / "images"
        images.mkdir(parents=True)
        for number in {image for _, _, image in questions} | {7}:
            Image.new("RGB", (64, 64), (number, 0, 0)).save(images / f"{number}.png")
        (images.parent / "questions.json").write_text(json.dumps(questions))
    return tmp_path / "data"


def texts(tables: datasets.DatasetDict) -> dict[str, list[dict]]:
    return {name: table.remove_columns("image").to_list() for name, table in tables.items()}


EXPECTED = {
    "train": [
        {
            "image_id": "easy-vqa-train-12",
            "questions": ["what color is the shape?", "is there a circle?", "is no circle present?"],
            "answers": ["red", "yes", "no"],
        },
        {"image_id": "easy-vqa-train-3", "questions": ["what shape is it?"], "answers": ["square"]},
    ],
    "test": [{"image_id": "easy-vqa-test-0", "questions": ["is there a red shape?"], "answers": ["yes"]}],
}


def test_one_row_per_image(folder):
    tables = load_easy_vqa(folder)
    assert texts(tables) == EXPECTED
    for table in tables.values():
        strings = datasets.List(datasets.Value("string"))
        assert table.features == datasets.Features(
            image=datasets.Image(), image_id=datasets.Value("string"), questions=strings, answers=strings
        )
    assert [image.getpixel((0, 0)) for image in tables["train"]["image"]] == [(12, 0, 0), (3, 0, 0)]


def test_images_stay_paths(folder):
    table = load_easy_vqa(folder)["train"].cast_column("image", datasets.Image(decode=False))
    assert table[1]["image"] == {"bytes": None, "path": str(folder / "train" / "images" / "3.png")}


def test_the_folder_above(folder, monkeypatch):
    assert texts(load_easy_vqa(folder.parent)) == EXPECTED
    monkeypatch.chdir(folder.parent)
    assert texts(load_easy_vqa("data")) == EXPECTED
    monkeypatch.setenv("HOME", str(folder.parent))
    assert texts(load_easy_vqa("~/data")) == EXPECTED


def test_a_replaced_image_changes_the_fingerprint(folder):
    first, again = (load_easy_vqa(folder)["train"]._fingerprint for _ in range(2))
    assert first == again
    Image.new("RGB", (64, 64), (3, 3, 0)).save(folder / "train/images/3.png")
    assert load_easy_vqa(folder)["train"]._fingerprint != first


def test_the_installed_package_is_found_and_not_run(folder, tmp_path, monkeypatch):
    package = tmp_path / "site" / "easy_vqa"
    shutil.copytree(folder, package / "data")
    (package / "__init__.py").write_text("raise RuntimeError('it was run')")
    monkeypatch.delitem(sys.modules, "easy_vqa", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    tables = load_easy_vqa()
    assert texts(tables) == EXPECTED
    encoded = tables["test"].cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert encoded["path"] == str(package / "data/test/images/0.png")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(ImportError, match=r"Run `pip install easy-vqa`, or pass the `folder`"):
        load_easy_vqa()


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "easy_vqa").mkdir()
    monkeypatch.delitem(sys.modules, "easy_vqa", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ImportError, match="easy-VQA is not installed"):
        load_easy_vqa()


@pytest.mark.parametrize("name", ["train/questions.json", "test/questions.json"])
def test_a_questions_file_is_absent(folder, name):
    (folder / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"{name} does not exist\. Pass the folder that contains train and test"
    ):
        load_easy_vqa(folder)


def test_nothing_at_that_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"elsewhere.train.questions\.json does not exist\. Pass the folder"):
        load_easy_vqa(tmp_path / "elsewhere")


def test_an_image_is_absent(folder):
    (folder / "test/images/0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"image .*test.images.0\.png of a question does not exist"):
        load_easy_vqa(folder)


@pytest.mark.parametrize("content", ["text", "truncated"])
def test_an_image_cannot_be_decoded(folder, content):
    path = folder / "train/images/3.png"
    path.write_bytes(b"no image" if content == "text" else path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"image .*train.images.3\.png cannot be decoded: \w+: .*\. Copy the data set"):
        load_easy_vqa(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not valid JSON"),
        ("\xff", "is not valid JSON"),
        ("{}", "must contain a list of at least one question"),
        ("[]", "must contain a list of at least one question"),
        (
            '["is it?"]',
            r"entry 1: the entry must be \[question, answer, image number\], but got 'is it\?'\. Correct it",
        ),
        ('[["is it?", "yes", 0], ["is it?", "no"]]', "entry 2: the entry must be"),
        ('[["is it?", "yes", "0"]]', "entry 1: the entry must be .* but got .*'0'"),
        ('[["is it?", "yes", true]]', "entry 1: the entry must be .* but got .*True"),
        ('[["is it?", null, 0]]', "entry 1: the entry must be .* but got .*None"),
        ('[["is it?", " ", 0]]', "entry 1: the entry must be .* but got .*' '"),
    ],
)
def test_a_questions_file_is_malformed(folder, content, message):
    (folder / "test/questions.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"test.questions\.json.*{message}"):
        load_easy_vqa(folder)
