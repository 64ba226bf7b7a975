"""Karpathy's JSON of images, captions and splits, as he published it for Flickr8k and COCO."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmkit.data.sources.faults import Faults

KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


def read_karpathy_entries(path: Path, faults: Faults, *names: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each image of the file is, and its entry.

    Args:
        path: the file.
        faults: gets the malformed entries, under the name "malformed row".
        *names: what an entry needs as a string, beside its `filename`.

    Raises:
        ValueError: the file is not Karpathy's JSON.
    """
    try:
        entries = json.loads(path.read_bytes())["images"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not Karpathy's JSON, an object with the key 'images' ({error!r})") from error
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, image {number}"
        try:
            well_formed = (
                all(isinstance(entry[name], str) for name in ("filename", *names))
                and entry["split"] in KARPATHY_SPLITS
                and all(isinstance(sentence["raw"], str) for sentence in entry["sentences"])
            )
        except (KeyError, TypeError):
            well_formed = False
        if well_formed:
            yield where, entry
        else:
            needed = ", ".join(["filename", *names])
            faults.add("malformed row", f"{where}: expected {needed}, split and raw sentences, found {entry}")
