"""What the loaders of captioned images share: from image files, or from what `datasets` reads, to checked tables."""

import os
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets, load_dataset

from vlmkit.data.sources.faults import CaptionRow, Faults, find_undecodable, get_file_state, group_captions

_ID_COLUMNS = ("image_id", "filename", "file_name", "image_name")


class ListedImage(NamedTuple):
    """An image that a data set's files speak of, and where it should lie."""

    image_id: str
    path: Path
    captions: list[str]


class Photo(NamedTuple):
    """What is known of an image; `row` is its place in the table of all images."""

    image_id: str
    row: int
    captions: list[str]


def build_image_table(
    listed: Mapping[str, Sequence[ListedImage]], faults: Faults
) -> tuple[Dataset, dict[str, list[Photo]]]:
    """The table of the images that exist, as paths, and the photos of each split.

    Args:
        listed: the images of each split.
        faults: gets the images that are absent.
    """
    paths: list[str] = []
    states: list[str] = []
    splits: dict[str, list[Photo]] = {}
    for split, images in listed.items():
        splits[split] = []
        for image_id, path, captions in images:
            try:
                state = get_file_state(path)
            except FileNotFoundError:
                faults.add("absent image", f"image {path} is absent", error=FileNotFoundError)
                continue
            splits[split].append(Photo(image_id, len(paths), captions))
            paths.append(str(path))
            states.append(state)
    table = Dataset.from_dict({"image": paths, "state": states}, Features({"image": Image(), "state": Value("string")}))
    return table.remove_columns("state"), splits  # having been a column, the state stays in the fingerprint


def load_image_table(source: str, *, faults: Faults, repeats: bool = False) -> tuple[Dataset, dict[str, list[Photo]]]:
    """The table of the images of anything that `datasets.load_dataset` reads, and the photos of each split.

    Args:
        source: a hub id, or a folder, where "~" stands for the home folder. It needs a column `image` and the captions
            in `caption_0`, `caption_1`, ..., `captions`, `caption` or `text`, and may hold one row per caption if a
            column tells the image.
        faults: gets the empty captions and the duplicate rows.
        repeats: see [`group_captions`].

    Raises:
        FileNotFoundError: there is no data set.
        ValueError: a column is missing.
    """
    try:
        tables = load_dataset(os.path.expanduser(source))
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"there are no captioned images at {source}, neither in a folder on this machine nor on the hub: {error}"
        ) from error
    splits: dict[str, list[Photo]] = {}
    offset = 0
    for split, table in tables.items():
        splits[split] = _read_table(table, f"{source}, split {split}", split, offset, faults, repeats)
        offset += len(table)
    images = concatenate_datasets([table.select_columns("image") for table in tables.values()])
    return images.cast_column("image", Image()), splits


def _read_table(table: Dataset, source: str, split: str, offset: int, faults: Faults, repeats: bool) -> list[Photo]:
    """The photos of one split, whose first row is row `offset` of all images."""
    texts = _texts(table, source)
    id_column = next((name for name in _ID_COLUMNS if name in table.column_names), None)
    ids = [str(value) for value in table[id_column]] if id_column else [f"{split}-{row}" for row in range(len(table))]
    captions = group_captions(
        (
            CaptionRow(image_id, text, f"{source}, row {number}")
            for number, (image_id, row_texts) in enumerate(zip(ids, texts, strict=True), start=1)
            for text in row_texts
        ),
        faults=faults,
        repeats=repeats,
    )
    row_of_image: dict[str, int] = {}
    for row, image_id in enumerate(ids, start=offset):
        row_of_image.setdefault(image_id, row)
    return [Photo(image_id, row, captions.get(image_id, [])) for image_id, row in row_of_image.items()]


def _texts(table: Dataset, source: str) -> list[list[str]]:
    """The captions of each row, "" for a missing one."""
    columns = table.column_names
    numbered = sorted((name for name in columns if re.fullmatch(r"caption_\d+", name)), key=lambda name: int(name[8:]))
    found = numbered or [name for name in ("captions", "caption", "text") if name in columns][:1]
    if "image" not in columns or not found:
        raise ValueError(
            f"{source} has the columns {', '.join(columns)}; it needs image and one of captions, caption, text or "
            "caption_0, caption_1, ..."
        )
    return [
        [text or "" for value in record.values() for text in (value if isinstance(value, list) else [value])]
        for record in table.select_columns(found)
    ]


def select_usable_photos(
    images: Dataset, *, splits: Mapping[str, Sequence[Photo]], faults: Faults
) -> dict[str, list[Photo]]:
    """The photos of each split that have a caption and can be decoded.

    Args:
        images: the table of all images.
        splits: the photos of each split.
        faults: gets the others.
    """
    encoded = images.cast_column("image", Image(decode=False))["image"]
    kept: dict[str, list[Photo]] = {}
    for split, photos in splits.items():
        reasons = find_undecodable(encoded, [photo.row for photo in photos])
        kept[split] = []
        for photo in photos:
            if not photo.captions:
                faults.add("image without caption", f"image {photo.image_id} has no caption")
            elif photo.row in reasons:
                faults.add("undecodable image", f"image {photo.image_id} cannot be decoded: {reasons[photo.row]}")
            else:
                kept[split].append(photo)
    return kept


def build_caption_tables(images: Dataset, *, splits: Mapping[str, Sequence[Photo]], source: str) -> DatasetDict:
    """Attach captions and ids to the images and divide them, without copying pixels.

    Args:
        images: the table of all images.
        splits: the photos of each split.
        source: the data set's name, for the error.

    Raises:
        ValueError: a split is empty.
    """
    empty = [name for name, photos in splits.items() if not photos]
    if empty:
        raise ValueError(f"{source} has no usable image for {' and '.join(empty)}")
    captions, ids = [[""]] * len(images), [""] * len(images)
    for photo in chain.from_iterable(splits.values()):
        captions[photo.row], ids[photo.row] = photo.captions, photo.image_id
    # Columns first: a table of selected rows would be copied to take another column.
    table = images.add_column("captions", captions, feature=List(Value("string")))
    table = table.add_column("image_id", ids, feature=Value("string"))
    return DatasetDict({name: table.select([photo.row for photo in photos]) for name, photos in splits.items()})
