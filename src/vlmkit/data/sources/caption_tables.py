"""Common steps of the loaders of captioned images, which build validated tables from files or `datasets` tables."""

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
    """Image that the files of a data set list, and its expected path, which may not exist."""

    image_id: str
    path: Path
    captions: list[str]


class Photo(NamedTuple):
    """Captions of an image, and the index of its row in the table of all images."""

    image_id: str
    row: int
    captions: list[str]


def build_image_table(
    listed: Mapping[str, Sequence[ListedImage]], faults: Faults
) -> tuple[Dataset, dict[str, list[Photo]]]:
    """Build a table of the listed images that exist.

    Args:
        listed: Images of each split.
        faults: Handler of missing images.

    Returns:
        The table of all images, which are stored as paths, and the photos of each split.
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
                faults.add("missing image", f"The image {path} does not exist.", error=FileNotFoundError)
                continue
            splits[split].append(Photo(image_id, len(paths), captions))
            paths.append(str(path))
            states.append(state)
    table = Dataset.from_dict({"image": paths, "state": states}, Features({"image": Image(), "state": Value("string")}))
    return table.remove_columns("state"), splits  # the removed column still changes the fingerprint


def load_image_table(source: str, *, faults: Faults, repeats: bool = False) -> tuple[Dataset, dict[str, list[Photo]]]:
    """Load captioned images with `datasets.load_dataset`.

    The tables need a column `image`, and the captions in `captions`, `caption`, `text`, or numbered columns such as
    `caption_0`. They may have one row per caption if a column `image_id`, `filename`, `file_name` or `image_name`
    identifies the image.

    Args:
        source: Hub id or folder. "~" is expanded to the home folder.
        faults: Handler of empty captions and duplicate rows.
        repeats: Accept repeated captions, see [`group_captions`].

    Returns:
        The table of all images, and the photos of each split.

    Raises:
        FileNotFoundError: If the data set does not exist.
        ValueError: If a column is missing.
    """
    try:
        tables = load_dataset(os.path.expanduser(source))
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{source} is neither a local folder of captioned images nor a data set on the Hub: {error}"
        ) from error
    splits: dict[str, list[Photo]] = {}
    offset = 0
    for split, table in tables.items():
        splits[split] = _read_table(table, f"{source}, split {split}", split, offset, faults, repeats)
        offset += len(table)
    images = concatenate_datasets([table.select_columns("image") for table in tables.values()])
    return images.cast_column("image", Image()), splits


def _read_table(table: Dataset, source: str, split: str, offset: int, faults: Faults, repeats: bool) -> list[Photo]:
    """Return the photos of one split, whose first row has the index `offset` in the table of all images."""
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
    """Return the captions of each row, with an empty string for `None`."""
    columns = table.column_names
    numbered = sorted((name for name in columns if re.fullmatch(r"caption_\d+", name)), key=lambda name: int(name[8:]))
    found = numbered or [name for name in ("captions", "caption", "text") if name in columns][:1]
    if "image" not in columns or not found:
        raise ValueError(
            f"{source}: the table must have the column image and one of captions, caption, text or caption_0, "
            f"caption_1, ..., but got {', '.join(columns)}. Rename the columns."
        )
    return [
        [text or "" for value in record.values() for text in (value if isinstance(value, list) else [value])]
        for record in table.select_columns(found)
    ]


def select_usable_photos(
    images: Dataset, *, splits: Mapping[str, Sequence[Photo]], faults: Faults
) -> dict[str, list[Photo]]:
    """Select the photos of each split that have a caption and can be decoded.

    Args:
        images: Table of all images.
        splits: Photos of each split.
        faults: Handler of photos without captions and of undecodable images.
    """
    encoded = images.cast_column("image", Image(decode=False))["image"]
    kept: dict[str, list[Photo]] = {}
    for split, photos in splits.items():
        reasons = find_undecodable(encoded, [photo.row for photo in photos])
        kept[split] = []
        for photo in photos:
            if not photo.captions:
                faults.add("image without caption", f"The image {photo.image_id} does not have a caption.")
            elif photo.row in reasons:
                faults.add("undecodable image", f"The image {photo.image_id} cannot be decoded: {reasons[photo.row]}.")
            else:
                kept[split].append(photo)
    return kept


def build_caption_tables(images: Dataset, *, splits: Mapping[str, Sequence[Photo]], source: str) -> DatasetDict:
    """Build the table of each split from the images, captions and image ids, without copying pixels.

    Args:
        images: Table of all images.
        splits: Photos of each split.
        source: Name of the data set for the error message.

    Raises:
        ValueError: If a split is empty.
    """
    empty = [name for name, photos in splits.items() if not photos]
    if empty:
        raise ValueError(
            f"Each split of {source} must have at least one valid image, but got none for {', '.join(empty)}."
        )
    captions, ids = [[""]] * len(images), [""] * len(images)
    for photo in chain.from_iterable(splits.values()):
        captions[photo.row], ids[photo.row] = photo.captions, photo.image_id
    # Columns are added before the selection, because adding a column to selected rows copies the table.
    table = images.add_column("captions", captions, feature=List(Value("string")))
    table = table.add_column("image_id", ids, feature=Value("string"))
    return DatasetDict({name: table.select([photo.row for photo in photos]) for name, photos in splits.items()})
