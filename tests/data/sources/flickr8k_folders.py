"""Writes tiny data sets in the layouts of Flickr8k."""

import csv
import io
import json
from pathlib import Path

import datasets
from PIL import Image

CAPTIONS = {f"{name}.jpg": [f"A {name}, seen from afar.", f'A sign says "{name}".'] for name in "abcdefgh"}
SPLITS = {"train": ["d.jpg", "a.jpg", "b.jpg"], "validation": ["c.jpg", "f.jpg"], "test": ["e.jpg"]}
LISTS = {"train": "trainImages", "validation": "devImages", "test": "testImages"}


def jpeg(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_csv(path: Path, captions: dict[str, list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows((name, caption) for name, texts in captions.items() for caption in texts)


def write_tokens(path: Path, captions: dict[str, list[str]]) -> None:
    rows = [f"{name}#{i}\t{text}" for name, texts in captions.items() for i, text in enumerate(texts)]
    path.write_text("\n".join(rows))


def write_karpathy(path: Path, captions: dict[str, list[str]], splits: dict[str, list[str]] = SPLITS) -> None:
    split_of = {name: "val" if split == "validation" else split for split, names in splits.items() for name in names}
    images = [
        {"filename": name, "split": split_of.get(name, "restval"), "sentences": [{"raw": text} for text in texts]}
        for name, texts in captions.items()
    ]
    path.write_text(json.dumps({"images": images, "dataset": "flickr8k"}))


def write_lists(folder: Path, splits: dict[str, list[str]] = SPLITS) -> None:
    folder.mkdir(exist_ok=True)
    for split, names in splits.items():
        (folder / f"Flickr_8k.{LISTS[split]}.txt").write_text("\n".join(names) + "\n")


def write_images(folder: Path, names) -> None:
    folder.mkdir()
    for shade, name in enumerate(names):
        (folder / name).write_bytes(jpeg(shade % 256))


def contents(tables: datasets.DatasetDict) -> dict[str, dict[str, list[str]]]:
    return {name: dict(zip(table["image_id"], table["captions"], strict=True)) for name, table in tables.items()}


EXPECTED = {split: {name: CAPTIONS[name] for name in names} for split, names in SPLITS.items()}
