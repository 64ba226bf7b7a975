"""Reader of the JSON files of images, captions and splits that Karpathy published for Flickr8k and COCO."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmkit.data.sources.faults import Faults

KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


def read_karpathy_entries(path: Path, faults: Faults, *names: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the location and the entry of each image in a file.

    Args:
        path: Path of the JSON file.
        faults: Handler of malformed entries, which are counted as "malformed row".
        *names: Keys with strings that every entry must have, in addition to `filename`.

    Raises:
        ValueError: If the file does not have Karpathy's format.
    """
    try:
        entries = json.loads(path.read_bytes())["images"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be in Karpathy's format, a JSON object with the key 'images', but reading it failed: "
            f"{error!r}."
        ) from error
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
            faults.add(
                "malformed row", f"{where}: the entry must have {needed}, split and raw sentences, but got {entry}."
            )
