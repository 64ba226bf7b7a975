"""Each layout gives the same tables; each fault stops the loading, or is dropped and counted."""

import json
from pathlib import Path

import pytest
from tests.data.sources.flickr8k_folders import (
    CAPTIONS,
    EXPECTED,
    SPLITS,
    contents,
    jpeg,
    write_csv,
    write_karpathy,
    write_lists,
    write_tokens,
)

from vlmkit.data import load_flickr8k


def add_row(folder: Path, row: str) -> None:
    with (folder / "captions.txt").open("a", encoding="utf-8") as file:
        file.write(row + "\n")


@pytest.mark.parametrize("images", ["Images", "Flicker8k_Dataset", "Flickr8k_Dataset"])
def test_names_of_the_image_folder(folder, images):
    (folder / "Images").rename(folder / images)
    assert contents(load_flickr8k(folder)) == EXPECTED


@pytest.mark.parametrize("below", ["", "Flickr8k_text"])
def test_original_archive(bare, below):
    (bare / below).mkdir(exist_ok=True)
    write_tokens(bare / below / "Flickr8k.token.txt", {**CAPTIONS, "2258277193_586949ec62.jpg.1": ["Never published."]})
    write_lists(bare / below)
    assert contents(load_flickr8k(bare)) == EXPECTED


def test_karpathy_json_alone(bare):
    write_karpathy(bare / "dataset_flickr8k.json", CAPTIONS)
    tables = contents(load_flickr8k(bare))
    assert tables.pop("train").keys() == {"a.jpg", "b.jpg", "d.jpg", "g.jpg", "h.jpg"}  # "restval" trains too
    assert tables == {name: EXPECTED[name] for name in ("validation", "test")}


def test_karpathy_splits_serve_where_the_lists_are_absent(bare):
    write_csv(bare / "captions.txt", CAPTIONS)
    write_karpathy(bare / "dataset_flickr8k.json", {name: [] for name in CAPTIONS if name not in ("g.jpg", "h.jpg")})
    assert contents(load_flickr8k(bare)) == EXPECTED


def test_lists_take_precedence_over_karpathy(folder):
    write_karpathy(folder / "dataset_flickr8k.json", CAPTIONS, {"train": [], "validation": [], "test": list(CAPTIONS)})
    assert contents(load_flickr8k(folder)) == EXPECTED


def test_byte_order_mark_and_windows_line_ends(folder):
    text = (folder / "captions.txt").read_bytes().replace(b"\r\n", b"\n")
    (folder / "captions.txt").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n") + b"\r\n")
    assert contents(load_flickr8k(folder)) == EXPECTED


# What is done to the folder, what the message says, how the fault is called, and what is left of "train".
LEFT = EXPECTED["train"]
WITHOUT_A = {name: LEFT[name] for name in ("d.jpg", "b.jpg")}
FAULTS = {
    "empty caption": (
        lambda f: add_row(f, "a.jpg, "),
        r"captions\.txt, row 18: the caption of a\.jpg",
        "empty caption",
        LEFT,
    ),
    "duplicate row": (
        lambda f: add_row(f, 'a.jpg,"A a, seen from afar."'),
        r"captions\.txt, row 18: a\.jpg already has the caption 'A a, seen from afar\.'",
        "duplicate row",
        LEFT,
    ),
    "too many fields": (
        lambda f: add_row(f, "a.jpg,one,two"),
        r"captions\.txt, row 18: the row must be",
        "malformed row",
        LEFT,
    ),
    "too few fields": (lambda f: add_row(f, "a.jpg"), r"captions\.txt, row 18: the row must be", "malformed row", LEFT),
    "open quote": (
        lambda f: add_row(f, 'a.jpg,"one'),
        r"captions\.txt, row 18: the row must be",
        "malformed row",
        LEFT,
    ),
    "no name": (lambda f: add_row(f, ",one"), r"captions\.txt, row 18: the row must be", "malformed row", LEFT),
    "not UTF-8": (
        lambda f: (f / "captions.txt").write_bytes((f / "captions.txt").read_bytes() + b"a.jpg,caf\xe9\n"),
        r"captions\.txt, row 18: the row is not UTF-8",
        "malformed row",
        LEFT,
    ),
    "missing image": (
        lambda f: (f / "Images" / "a.jpg").unlink(),
        r"Images.a\.jpg does not exist",
        "missing image",
        WITHOUT_A,
    ),
    "truncated image": (
        lambda f: (f / "Images" / "a.jpg").write_bytes(jpeg()[:-100]),
        r"image a\.jpg cannot be decoded: OSError: Truncated",
        "undecodable image",
        WITHOUT_A,
    ),
    "no image": (
        lambda f: (f / "Images" / "a.jpg").write_bytes(b"<html>"),
        r"image a\.jpg cannot be decoded: UnidentifiedImageError",
        "undecodable image",
        WITHOUT_A,
    ),
    "image without caption": (
        lambda f: write_csv(f / "captions.txt", {name: texts for name, texts in CAPTIONS.items() if name != "a.jpg"}),
        r"image a\.jpg does not have a caption",
        "image without caption",
        WITHOUT_A,
    ),
    "listed twice": (
        lambda f: write_lists(f / "official_splits", SPLITS | {"test": ["e.jpg", "a.jpg"]}),
        r"testImages\.txt, row 2: a\.jpg is already listed for train",
        "image listed twice",
        LEFT,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_stops_the_loading(folder, name):
    damage, message, kind, _ = FAULTS[name]
    damage(folder)
    with pytest.raises(FileNotFoundError if kind == "missing image" else ValueError, match=message):
        load_flickr8k(folder)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_dropped_and_counted(folder, name):
    damage, _, kind, left = FAULTS[name]
    damage(folder)
    with pytest.warns(UserWarning, match=rf"Dropped invalid data of .*: {kind} \(1\)\.$") as caught:
        tables = load_flickr8k(folder, on_error="skip")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert contents(tables) == EXPECTED | {"train": left}


def test_an_image_whose_only_caption_is_empty_is_dropped(folder):
    write_csv(folder / "captions.txt", CAPTIONS | {"a.jpg": [" "]})
    with pytest.warns(UserWarning, match=r"empty caption \(1\), image without caption \(1\)"):
        assert contents(load_flickr8k(folder, on_error="skip")) == EXPECTED | {"train": WITHOUT_A}


def test_malformed_tokens(bare):
    write_tokens(bare / "Flickr8k.token.txt", {"a.jpg": ["one"]})
    for row in ("a.jpg#1 no tab", "a.jpg\tno number", "#1\tno name"):
        (bare / "Flickr8k.token.txt").write_text(f"a.jpg#0\tone\n\n{row}\n")
        with pytest.raises(ValueError, match=r"Flickr8k\.token\.txt, row 3: the row must be image#number<TAB>caption"):
            load_flickr8k(bare)


@pytest.mark.parametrize(
    "entry",
    [
        {"split": "train", "sentences": []},
        {"filename": "a.jpg", "split": "holiday", "sentences": []},
        {"filename": "a.jpg", "split": "train", "sentences": ["A dog."]},
        {"filename": "a.jpg", "split": "train", "sentences": [{"raw": None}]},
    ],
)
def test_malformed_karpathy_entry(bare, entry):
    path = bare / "dataset_flickr8k.json"
    write_karpathy(path, CAPTIONS)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"images": [*content["images"], entry]}))
    with pytest.raises(ValueError, match=r"dataset_flickr8k\.json, image 9: the entry must have filename"):
        load_flickr8k(bare)
    with pytest.warns(UserWarning, match=r"malformed row \(1\)\.$"):
        assert sum(load_flickr8k(bare, on_error="skip").num_rows.values()) == 8


@pytest.mark.parametrize("content", ["{", "[]", '{"annotations": []}'])
def test_json_that_is_not_karpathys(bare, content):
    (bare / "dataset_flickr8k.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset_flickr8k\.json must be in Karpathy's format"):
        load_flickr8k(bare)


@pytest.mark.parametrize("content", ["", "a.jpg,A dog.\n"])
def test_missing_header(bare, content):
    (bare / "captions.txt").write_text(content)
    with pytest.raises(ValueError, match=r"captions\.txt, row 1: the header must be 'image,caption'"):
        load_flickr8k(bare)


def test_captions_file_missing(bare):
    with pytest.raises(
        FileNotFoundError, match=r"lacks a captions file\. Expected one of captions\.txt, Flickr8k\.token\.txt"
    ):
        load_flickr8k(bare)


def test_image_folder_missing(tmp_path):
    write_csv(tmp_path / "captions.txt", CAPTIONS)
    with pytest.raises(FileNotFoundError, match=r"lacks an image folder\. Put the images into .*Images"):
        load_flickr8k(tmp_path)


def test_one_of_three_lists_missing(folder):
    (folder / "official_splits" / "Flickr_8k.devImages.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks Flickr_8k\.devImages\.txt\. Add the missing lists"):
        load_flickr8k(folder)
