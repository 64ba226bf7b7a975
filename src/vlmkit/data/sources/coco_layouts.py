"""Readers of the file layouts in which captions of COCO are distributed."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmkit.data.sources.caption_tables import ListedImage
from vlmkit.data.sources.faults import CaptionRow, Faults, group_captions
from vlmkit.data.sources.karpathy import KARPATHY_SPLITS, read_karpathy_entries

logger = logging.getLogger(__name__)

_KARPATHY = "dataset_coco.json"
_YEARS = ("2017", "2014")
_SPLITS = {"train": "train", "validation": "val"}


def is_coco_folder(folder: Path) -> bool:
    """Return whether a folder contains a captions file or an image folder of COCO."""
    published = [path for year in _YEARS for pair in _published(folder, year).values() for path in pair]
    return any(path.exists() for path in (folder / _KARPATHY, *published))


def read_coco_folder(folder: Path, faults: Faults) -> dict[str, list[ListedImage]]:
    """List the images of each split of a folder.

    The splits come from Karpathy's file if it exists, and otherwise from the files published in 2017 or 2014. A
    published split needs both its captions file and its image folder. A warning is logged if only one of them exists.

    Args:
        folder: Folder of the data set.
        faults: Handler of invalid data, see [`read_coco_file`].

    Raises:
        FileNotFoundError: If the folder does not contain a complete split.
    """
    if (folder / _KARPATHY).exists():
        return _read_karpathy(folder / _KARPATHY, folder, faults)
    for year in _YEARS:
        pairs = _published(folder, year)
        complete = {split: pair for split, pair in pairs.items() if all(path.exists() for path in pair)}
        for split in pairs.keys() - complete.keys():
            if any(path.exists() for path in pairs[split]):
                logger.warning("Left out the split %r, which requires both %s and %s.", split, *pairs[split])
        if complete:
            return {
                split: read_coco_file(path, image_folder=images, faults=faults)["train"]
                for split, (path, images) in complete.items()
            }
    raise FileNotFoundError(
        f"{folder} lacks a complete split of COCO. Expected {_KARPATHY}, or annotations/captions_train2017.json with "
        "train2017/ (or val2017, train2014, val2014)."
    )


def read_coco_file(path: Path, *, image_folder: Path, faults: Faults) -> dict[str, list[ListedImage]]:
    """List the images of a captions file by split.

    Karpathy's file has several splits. The images of any other file are in the split "train".

    Args:
        path: Path of the captions file.
        image_folder: Folder that the file names of the images are relative to.
        faults: Handler of malformed entries, images and annotations that are listed twice, annotations of unknown
            images and empty captions.

    Raises:
        FileNotFoundError: If the file or the folder does not exist.
        ValueError: If the file has another format.
    """
    for needed in (path, image_folder):
        if not needed.exists():
            raise FileNotFoundError(f"{needed} does not exist. Check `path_or_hub_id` and `image_folder`.")
    if path.name == _KARPATHY:
        return _read_karpathy(path, image_folder, faults)
    content = _read_json(path)
    file_names = _file_names(content["images"], path, faults)
    captions = group_captions(_captions(content["annotations"], file_names, path, faults), faults=faults, repeats=True)
    return {"train": [ListedImage(name, image_folder / name, captions.get(name, [])) for name in file_names.values()]}


def _published(folder: Path, year: str) -> dict[str, tuple[Path, Path]]:
    """Return the paths of the captions file and the image folder of each split."""
    return {
        split: (folder / "annotations" / f"captions_{name}{year}.json", folder / f"{name}{year}")
        for split, name in _SPLITS.items()
    }


def _read_json(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
        lists = {name: content[name] for name in ("images", "annotations")}
        if all(isinstance(value, list) for value in lists.values()):
            return lists
        reason = "one of them is not a list"
    except (ValueError, KeyError, TypeError) as error:
        reason = repr(error)
    raise ValueError(
        f"{path} must be in COCO's captions format, a JSON object with the lists 'images' and 'annotations', but "
        f"reading it failed: {reason}."
    )


def _file_names(entries: list[Any], path: Path, faults: Faults) -> dict[int | str, str]:
    """Return the file name of each image id."""
    file_names: dict[int | str, str] = {}
    names: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, image {number}"
        if not _has(entry, id=(int, str), file_name=(str,)):
            faults.add("malformed row", f"{where}: the entry must have id and file_name, but got {entry}.")
        elif entry["id"] in file_names or entry["file_name"] in names:
            faults.add(
                "image listed twice", f"{where}: id {entry['id']} or file {entry['file_name']} is already listed."
            )
        else:
            file_names[entry["id"]] = entry["file_name"]
            names.add(entry["file_name"])
    return file_names


def _captions(entries: list[Any], file_names: dict[int | str, str], path: Path, faults: Faults) -> Iterator[CaptionRow]:
    """Yield the captions of known images."""
    seen: set[int | str] = set()
    for number, entry in enumerate(entries, start=1):
        if not _has(entry, id=(int, str), image_id=(int, str), caption=(str,)):
            where = f"{path}, annotation {number}"
            faults.add("malformed row", f"{where}: the entry must have id, image_id and caption, but got {entry}.")
            continue
        where = f"{path}, annotation with id {entry['id']}"
        if entry["id"] in seen:
            faults.add("annotation listed twice", f"{where}: the annotation is already listed.")
        elif entry["image_id"] not in file_names:
            faults.add("annotation of an unknown image", f"{where}: the image id {entry['image_id']} does not exist.")
        else:
            seen.add(entry["id"])
            yield CaptionRow(file_names[entry["image_id"]], entry["caption"], where)


def _has(entry: Any, **types: tuple[type, ...]) -> bool:
    """Return whether an entry is a JSON object with values of the given types."""
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kinds) for name, kinds in types.items())


def _read_karpathy(path: Path, folder: Path, faults: Faults) -> dict[str, list[ListedImage]]:
    """List the images of Karpathy's splits, whose paths are relative to the folder."""
    rows: list[CaptionRow] = []
    files: dict[str, tuple[str, Path]] = {}
    for where, entry in read_karpathy_entries(path, faults, "filepath"):
        name = entry["filename"]
        if name in files:
            faults.add("image listed twice", f"{where}: {name} is already listed for {files[name][0]}.")
            continue
        files[name] = KARPATHY_SPLITS[entry["split"]], folder / entry["filepath"] / name
        rows += (CaptionRow(name, sentence["raw"], where) for sentence in entry["sentences"])
    captions = group_captions(rows, faults=faults, repeats=True)
    splits: dict[str, list[ListedImage]] = {split: [] for split in ("train", "validation", "test")}
    for name, (split, image) in files.items():
        splits[split].append(ListedImage(name, image, captions.get(name, [])))
    return {split: images for split, images in splits.items() if images}
