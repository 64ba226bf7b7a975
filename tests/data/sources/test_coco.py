"""Layouts, options and hub tables of COCO's captions; each fault stops the loading, or is dropped and counted."""

import gc
import json
import logging
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from tests.data.sources.coco_folders import (
    CAPTIONS,
    EXPECTED,
    content,
    write_captions,
    write_karpathy,
    write_published,
)
from tests.data.sources.flickr8k_folders import contents, jpeg, write_images

from vlmkit.data import load_coco_captions
from vlmkit.data.sources.coco_layouts import read_coco_file
from vlmkit.data.sources.faults import Faults

TRAIN = "annotations/captions_train2017.json"


@pytest.fixture
def coco(tmp_path) -> Path:
    """The layout of 2017."""
    write_published(tmp_path)
    return tmp_path


@pytest.fixture
def karpathy(tmp_path) -> Path:
    """The layout of 2014 with Karpathy's file."""
    write_published(tmp_path, "2014")
    write_karpathy(tmp_path)
    return tmp_path


def test_columns_are_those_of_every_loader(coco):
    tables = load_coco_captions(coco)
    for table in tables.values():
        assert table.features == datasets.Features(
            image=datasets.Image(), captions=datasets.List(datasets.Value("string")), image_id=datasets.Value("string")
        )
    assert tables["train"][3]["image"].getpixel((0, 0))[0] == pytest.approx(3, abs=2)


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_published_layout(tmp_path, year):
    write_published(tmp_path, year)
    tables = load_coco_captions(tmp_path)
    assert contents(tables) == EXPECTED
    assert tables["train"]["image_id"][:] == list(CAPTIONS["train"])  # in the order of the file


def test_2017_comes_before_2014(coco):
    write_published(coco, "2014")
    table = load_coco_captions(coco)["train"].cast_column("image", datasets.Image(decode=False))
    assert table[0]["image"] == {"bytes": None, "path": str(coco / "train2017" / "a.jpg")}


def test_a_split_without_images_is_left_out_with_a_warning(coco, caplog):
    (coco / "train2017").rename(coco / "elsewhere")
    assert contents(load_coco_captions(coco)) == {"validation": CAPTIONS["val"]}
    assert "Left out the split 'train', which requires both" in caplog.text
    (coco / "annotations/captions_train2017.json").unlink()
    caplog.clear()
    assert contents(load_coco_captions(coco)) == {"validation": CAPTIONS["val"]}
    assert not caplog.text  # nothing of it is there: val2017 alone was downloaded
    write_published(coco, "2014")  # the year with any images wins
    with caplog.at_level(logging.WARNING):
        assert contents(load_coco_captions(coco)) == {"validation": CAPTIONS["val"]}


def test_karpathys_splits(karpathy):
    everything = CAPTIONS["train"] | CAPTIONS["val"]
    assert contents(load_coco_captions(karpathy)) == {
        "train": {name: everything[name] for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")},
        "test": {"f.jpg": everything["f.jpg"]},
    }


def test_karpathys_file_by_itself(karpathy, tmp_path_factory):
    file = tmp_path_factory.mktemp("elsewhere") / "dataset_coco.json"
    expected = contents(load_coco_captions(karpathy))
    (karpathy / "dataset_coco.json").rename(file)
    assert contents(load_coco_captions(file, image_folder=karpathy)) == expected


def test_a_captions_file_and_its_images(tmp_path, monkeypatch):
    write_captions(tmp_path / "mine.json", CAPTIONS["train"])
    write_images(tmp_path / "photos", CAPTIONS["train"])
    monkeypatch.chdir(tmp_path)
    tables = load_coco_captions("mine.json", image_folder="photos")
    assert contents(tables) == {"train": CAPTIONS["train"]}
    table = tables["train"].cast_column("image", datasets.Image(decode=False))
    assert table[0]["image"]["path"] == str(tmp_path / "photos" / "a.jpg")


def test_file_names_may_hold_a_folder(tmp_path):
    write_captions(tmp_path / "mine.json", {"cats/a.jpg": ["A cat."], "dogs/a.jpg": ["A dog."]})
    for folder in ("cats", "dogs"):
        write_images(tmp_path / folder, ["a.jpg"])
    tables = load_coco_captions(tmp_path / "mine.json", image_folder=tmp_path)
    assert contents(tables)["train"] == {"cats/a.jpg": ["A cat."], "dogs/a.jpg": ["A dog."]}


def test_max_images_takes_the_first_of_each_split(coco):
    for name in ("c.jpg", "d.jpg"):
        (coco / "train2017" / name).unlink()  # the others may be absent
    assert contents(load_coco_captions(coco, max_images=2)) == {
        "train": {name: CAPTIONS["train"][name] for name in ("a.jpg", "b.jpg")},
        "validation": CAPTIONS["val"],
    }
    (coco / "train2017" / "a.jpg").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"undecodable image \(1\)\.$"):
        tables = load_coco_captions(coco, max_images=2, on_error="skip")
    assert tables["train"]["image_id"][:] == ["b.jpg"]


def test_an_image_may_have_the_same_caption_twice(tmp_path):
    captions = {"a.jpg": ["A dog.", "Grass.", "A dog. "]}
    write_captions(tmp_path / "mine.json", captions)
    write_images(tmp_path / "photos", captions)
    tables = load_coco_captions(tmp_path / "mine.json", image_folder=tmp_path / "photos")
    assert tables["train"][0]["captions"] == ["A dog.", "Grass.", "A dog."]


def test_sound_data_warn_of_nothing(coco):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_coco_captions(coco, on_error="skip")


def test_fingerprint_notices_a_replaced_image_and_nothing_else(coco):
    before = load_coco_captions(coco)["train"]._fingerprint
    assert load_coco_captions(coco)["train"]._fingerprint == before
    (coco / "train2017" / "a.jpg").write_bytes(jpeg(200))
    os.utime(coco / "train2017" / "a.jpg", ns=(0, 1))
    assert load_coco_captions(coco)["train"]._fingerprint != before


def test_reading_a_large_file_is_linear(tmp_path):
    seconds = {}
    for size in (500, 5000):
        write_captions(
            tmp_path / "mine.json", {f"{n:06}.jpg": [f"caption {n} {i}" for i in range(5)] for n in range(size)}
        )
        gc.disable()  # a collection would look at all that is imported
        start = time.process_time()
        images = read_coco_file(tmp_path / "mine.json", image_folder=tmp_path, faults=Faults())["train"]
        seconds[size] = time.process_time() - start
        gc.enable()
        assert images[-1].captions[4] == f"caption {size - 1} 4"
    assert seconds[5000] < 40 * seconds[500]  # a quadratic reader takes a hundred times as long


# What is done to the content of the file or to the folder, what the message says, and how the fault is called.
LEFT, FIRST = CAPTIONS["train"], "a.jpg"
WITHOUT_A = {name: texts for name, texts in LEFT.items() if name != FIRST}
FAULTS: dict[str, tuple[Callable, str, str, dict]] = {
    "malformed image": (
        lambda c, f: c["images"].append({"id": 7}),
        r"captions_train2017\.json, image 5: the entry must have id and file_name, but got \{'id': 7\}",
        r"malformed row \(1\)",
        LEFT,
    ),
    "image id listed twice": (
        lambda c, f: c["images"].append({"id": 100, "file_name": "z.jpg"}),
        r"image 5: id 100 or file z\.jpg is already listed",
        r"image listed twice \(1\)",
        LEFT,
    ),
    "file listed twice": (
        lambda c, f: c["images"].append({"id": 7, "file_name": FIRST}),
        r"image 5: id 7 or file a\.jpg is already listed",
        r"image listed twice \(1\)",
        LEFT,
    ),
    "malformed annotation": (
        lambda c, f: c["annotations"].append({"id": 9, "image_id": 100}),
        r"annotation 9: the entry must have id, image_id and caption, but got \{'id': 9",
        r"malformed row \(1\)",
        LEFT,
    ),
    "no annotation at all": (
        lambda c, f: c["annotations"].append("A dog."),
        r"annotation 9: the entry must have id, image_id and caption, but got A dog\.",
        r"malformed row \(1\)",
        LEFT,
    ),
    "caption is no string": (
        lambda c, f: c["annotations"].append({"id": 9, "image_id": 100, "caption": None}),
        r"annotation 9: the entry must have id, image_id and caption",
        r"malformed row \(1\)",
        LEFT,
    ),
    "annotation listed twice": (
        lambda c, f: c["annotations"].append({"id": 1, "image_id": 100, "caption": "again"}),
        r"captions_train2017\.json, annotation with id 1: the annotation is already listed",
        r"annotation listed twice \(1\)",
        LEFT,
    ),
    "unknown image": (
        lambda c, f: c["annotations"].append({"id": 9, "image_id": 5, "caption": "Who?"}),
        r"annotation with id 9: the image id 5 does not exist",
        r"annotation of an unknown image \(1\)",
        LEFT,
    ),
    "empty caption": (
        lambda c, f: c["annotations"].append({"id": 9, "image_id": 100, "caption": " \n"}),
        r"annotation with id 9: the caption of a\.jpg is empty",
        r"empty caption \(1\)",
        LEFT,
    ),
    "image without caption": (
        lambda c, f: c["images"].append({"id": 5, "file_name": "../val2017/e.jpg"}),
        r"image \.\./val2017/e\.jpg does not have a caption",
        r"image without caption \(1\)",
        LEFT,
    ),
    "absent image": (
        lambda c, f: (f / FIRST).unlink(),
        r"image .*train2017.a\.jpg does not exist",
        r"missing image \(1\)",
        WITHOUT_A,
    ),
    "truncated image": (
        lambda c, f: (f / FIRST).write_bytes(jpeg()[:-100]),
        r"image a\.jpg cannot be decoded: OSError",
        r"undecodable image \(1\)",
        WITHOUT_A,
    ),
}


def damage(folder: Path, name: str) -> None:
    changed = content(CAPTIONS["train"])
    FAULTS[name][0](changed, folder / "train2017")
    (folder / TRAIN).write_text(json.dumps(changed))


@pytest.mark.parametrize("name", FAULTS)
def test_fault_stops_the_loading(coco, name):
    damage(coco, name)
    with pytest.raises(FileNotFoundError if name == "absent image" else ValueError, match=FAULTS[name][1]):
        load_coco_captions(coco)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_dropped_and_counted(coco, name):
    damage(coco, name)
    _, _, counted, left = FAULTS[name]
    with pytest.warns(UserWarning, match=rf"Dropped invalid data of .*: {counted}\.$") as caught:
        tables = load_coco_captions(coco, on_error="skip")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert contents(tables) == EXPECTED | {"train": left}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"filename": "z.jpg", "split": "train", "sentences": []},
            "the entry must have filename, filepath, split and raw sentences",
        ),
        (
            {"filepath": "val2014", "filename": "a.jpg", "split": "test", "sentences": []},
            r"a\.jpg is already listed for train",
        ),
    ],
)
def test_faults_of_karpathys_file(karpathy, entry, message):
    path = karpathy / "dataset_coco.json"
    path.write_text(json.dumps({"images": [*json.loads(path.read_text())["images"], entry]}))
    with pytest.raises(ValueError, match=rf"dataset_coco\.json, image 7: {message}"):
        load_coco_captions(karpathy)
    with pytest.warns(UserWarning, match=r"(malformed row|image listed twice) \(1\)\.$"):
        assert load_coco_captions(karpathy, on_error="skip").num_rows == {"train": 5, "test": 1}


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}', '{"images": [], "annotations": {}}'])
def test_json_of_another_kind(coco, text):
    (coco / TRAIN).write_text(text)
    with pytest.raises(ValueError, match=r"captions_train2017\.json must be in COCO's captions format"):
        load_coco_captions(coco)


def test_a_folder_without_captions_files(tmp_path):
    write_images(tmp_path / "val2014", ["a.jpg"])
    with pytest.raises(
        FileNotFoundError, match=r"lacks a complete split of COCO\. Expected dataset_coco\.json, or annotations/"
    ):
        load_coco_captions(tmp_path)


def test_a_captions_file_needs_its_images(coco):
    with pytest.raises(
        ValueError, match=r"`image_folder` is required for the captions file .*captions_train2017\.json"
    ):
        load_coco_captions(coco / TRAIN)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_coco_captions(coco / TRAIN, image_folder=coco / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        load_coco_captions(coco / "none.json", image_folder=coco)
    with pytest.raises(ValueError, match=r"`image_folder` must be `None`, because .* is not a captions file"):
        load_coco_captions(coco, image_folder=coco / "train2017")


def test_unknown_options(coco):
    with pytest.raises(ValueError, match="`max_images` must be at least 1, but got 0"):
        load_coco_captions(coco, max_images=0)
    with pytest.raises(ValueError, match=r"`on_error` must be one of 'raise', 'skip', but got 'warn'."):
        load_coco_captions(coco, on_error="warn")


def test_no_image_left(coco):
    for path in (coco / "val2017").iterdir():
        path.write_bytes(b"")
    with (
        pytest.raises(ValueError, match="must have at least one valid image, but got none for validation"),
        pytest.warns(UserWarning, match=r"undecodable image \(2\)"),
    ):
        load_coco_captions(coco, on_error="skip")


def test_tables_of_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    columns = {
        "image": [{"bytes": jpeg(shade), "path": None} for shade in (10, 99, 10, 10)],
        "caption": ["a1", "b1", "a2", "a1"],
        "filename": ["a.jpg", "b.jpg", "a.jpg", "a.jpg"],
    }
    (tmp_path / "hub").mkdir()
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "hub" / "train.parquet")
    assert contents(load_coco_captions(tmp_path / "hub")) == {"train": {"a.jpg": ["a1", "a2", "a1"], "b.jpg": ["b1"]}}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert contents(load_coco_captions("~/hub", max_images=1)) == {"train": {"a.jpg": ["a1", "a2", "a1"]}}
