"""Writes tiny data sets in the layouts of COCO's captions."""

import json
from pathlib import Path
from typing import Any

from tests.data.sources.flickr8k_folders import write_images

CAPTIONS = {
    "train": {f"{name}.jpg": [f"A {name}, seen from afar.", f'A sign says "{name}".'] for name in "abcd"},
    "val": {f"{name}.jpg": [f"The letter {name}."] for name in "ef"},
}
EXPECTED = {"train": CAPTIONS["train"], "validation": CAPTIONS["val"]}
# Karpathy's splits of the same images: file name to image folder and split.
KARPATHY = {
    "a.jpg": ("train2014", "train"),
    "b.jpg": ("train2014", "train"),
    "c.jpg": ("train2014", "train"),
    "d.jpg": ("train2014", "train"),
    "e.jpg": ("val2014", "restval"),
    "f.jpg": ("val2014", "test"),
}


def content(captions: dict[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    """What a captions file holds: ids of images from 100, of annotations from 1, annotations in reverse order."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(captions, start=100)]
    pairs = [(image["id"], text) for image in images for text in captions[image["file_name"]]]
    annotations = [
        {"id": number, "image_id": image_id, "caption": text} for number, (image_id, text) in enumerate(pairs, start=1)
    ]
    # As in the published files, the annotations are in another order than the images, but not those of one image.
    annotations.sort(key=lambda annotation: -annotation["image_id"])
    return {"images": images, "annotations": annotations}


def write_captions(path: Path, captions: dict[str, list[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content(captions)))


def write_published(folder: Path, year: str = "2017") -> None:
    """Captions files and images of both splits."""
    for name, captions in CAPTIONS.items():
        write_captions(folder / "annotations" / f"captions_{name}{year}.json", captions)
        write_images(folder / f"{name}{year}", captions)


def write_karpathy(folder: Path) -> None:
    """Karpathy's file for the images of 2014."""
    captions = CAPTIONS["train"] | CAPTIONS["val"]
    images = [
        {"filepath": place, "filename": name, "split": split, "sentences": [{"raw": text} for text in captions[name]]}
        for name, (place, split) in KARPATHY.items()
    ]
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
