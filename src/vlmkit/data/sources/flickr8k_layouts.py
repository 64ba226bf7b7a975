"""Readers of the folder layouts in which Flickr8k is distributed."""

import csv
from collections.abc import Iterator
from pathlib import Path

from vlmkit.data.sources.faults import CaptionRow, Faults
from vlmkit.data.sources.karpathy import KARPATHY_SPLITS, read_karpathy_entries

_IMAGE_FOLDERS = ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset")
_CAPTIONS_CSV, _CAPTIONS_TOKENS, _KARPATHY = "captions.txt", "Flickr8k.token.txt", "dataset_flickr8k.json"
_CAPTION_FILES = (_CAPTIONS_CSV, _CAPTIONS_TOKENS, _KARPATHY)
_SPLIT_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}

# The original token file has captions of one image that the archive does not contain.
_UNPUBLISHED_IMAGE = "2258277193_586949ec62.jpg.1"


def is_flickr8k_folder(folder: Path) -> bool:
    """Return whether a folder contains the image folder or a captions file of Flickr8k."""
    return folder.is_dir() and _find(folder, *_IMAGE_FOLDERS, *_CAPTION_FILES) is not None


def image_folder(folder: Path) -> Path:
    """Return the folder of the JPEG files.

    Raises:
        FileNotFoundError: If the folder does not contain the images.
    """
    found = _find(folder, *_IMAGE_FOLDERS)
    if found is None:
        raise FileNotFoundError(f"{folder} lacks an image folder. Put the images into {folder / _IMAGE_FOLDERS[0]}.")
    return found


def read_captions(folder: Path, faults: Faults) -> Iterator[CaptionRow]:
    """Read the captions of a folder.

    The captions come from the first of `captions.txt`, `Flickr8k.token.txt` and `dataset_flickr8k.json` that exists in
    the folder or a direct subfolder.

    Args:
        folder: Folder of the data set.
        faults: Handler of malformed rows.

    Raises:
        FileNotFoundError: If the captions file is missing.
        ValueError: If the captions file has another format: the CSV header is missing, or the JSON is invalid.
    """
    path = _find(folder, *_CAPTION_FILES)
    if path is None:
        raise FileNotFoundError(f"{folder} lacks a captions file. Expected one of {', '.join(_CAPTION_FILES)}.")
    if path.name == _CAPTIONS_CSV:
        return _read_csv(path, faults)
    if path.name == _CAPTIONS_TOKENS:
        return _read_tokens(path, faults)
    return _read_karpathy_captions(path, faults)


def read_splits(folder: Path, faults: Faults) -> dict[str, list[str]] | None:
    """Read the splits of a folder from the published lists of images, or else from Karpathy's file.

    Args:
        folder: Folder of the data set. The files may also be in a direct subfolder.
        faults: Handler of malformed rows and of images that are listed twice.

    Returns:
        The image ids of "train", "validation" and "test", or `None` for a folder without splits.

    Raises:
        FileNotFoundError: If the folder contains only some of the three lists.
    """
    listed = _read_lists(folder, faults) or _read_karpathy_splits(folder, faults)
    if listed is None:
        return None
    split_of: dict[str, str] = {}
    for split, image_id, where in listed:
        if image_id in split_of:
            faults.add("image listed twice", f"{where}: {image_id} is already listed for {split_of[image_id]}.")
        else:
            split_of[image_id] = split
    return {name: [image_id for image_id, split in split_of.items() if split == name] for name in _SPLIT_LISTS}


def _read_lists(folder: Path, faults: Faults) -> Iterator[tuple[str, str, str]] | None:
    """Return split, image id and location of each row of the published lists."""
    found = {split: path for split, name in _SPLIT_LISTS.items() if (path := _find(folder, name))}
    if not found:
        return None
    missing = [name for split, name in _SPLIT_LISTS.items() if split not in found]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {' and '.join(missing)}. Add the missing lists, or remove all lists.")
    return ((split, line.strip(), where) for split, path in found.items() for where, line in _lines(path, faults))


def _read_karpathy_splits(folder: Path, faults: Faults) -> Iterator[tuple[str, str, str]] | None:
    """Return split, image id and location of each entry of Karpathy's JSON."""
    path = _find(folder, _KARPATHY)
    if path is None:
        return None
    entries = read_karpathy_entries(path, faults)
    return ((KARPATHY_SPLITS[entry["split"]], entry["filename"], where) for where, entry in entries)


def _find(folder: Path, *names: str) -> Path | None:
    """Return the path of the first name that exists in the folder or a direct subfolder."""
    folders = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())]
    return next((parent / name for name in names for parent in folders if (parent / name).exists()), None)


def _lines(path: Path, faults: Faults) -> Iterator[tuple[str, str]]:
    """Yield the location and the text of each line that is not blank."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        where = f"{path}, row {number}"
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            faults.add("malformed row", f"{where}: the row is not UTF-8 ({error}).")
            continue
        if text.strip():
            yield where, text


def _read_csv(path: Path, faults: Faults) -> Iterator[CaptionRow]:
    """Yield the rows of a CSV file with the header `image,caption`."""
    lines = _lines(path, faults)
    where, header = next(lines, (f"{path}, row 1", ""))
    if header.strip() != "image,caption":
        raise ValueError(f"{where}: the header must be 'image,caption', but got {header!r}.")
    for where, line in lines:
        try:
            fields = next(csv.reader([line], strict=True))
        except csv.Error as error:
            fields = [str(error)]
        if len(fields) == 2 and fields[0].strip():
            yield CaptionRow(fields[0].strip(), fields[1], where)
        else:
            faults.add(
                "malformed row",
                f"{where}: the row must be image,caption (captions with commas in quotes), but got {line!r}.",
            )


def _read_tokens(path: Path, faults: Faults) -> Iterator[CaptionRow]:
    """Yield the rows `image#number<TAB>caption` of the original token file."""
    for where, line in _lines(path, faults):
        key, tab, caption = line.partition("\t")
        name, _, number = key.rpartition("#")
        if not (tab and name and number.isdecimal()):
            faults.add("malformed row", f"{where}: the row must be image#number<TAB>caption, but got {line!r}.")
        elif name != _UNPUBLISHED_IMAGE:
            yield CaptionRow(name, caption, where)


def _read_karpathy_captions(path: Path, faults: Faults) -> Iterator[CaptionRow]:
    """Yield the raw sentences of Karpathy's JSON."""
    for where, entry in read_karpathy_entries(path, faults):
        for sentence in entry["sentences"]:
            yield CaptionRow(entry["filename"], sentence["raw"], where)
