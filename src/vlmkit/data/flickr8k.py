"""Flickr8k, from a local folder or the hub, as tables of one row per image."""

import logging
import random
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from datasets import Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets, load_dataset

from vlmkit.data.checks import CaptionRow, Faults, group_captions, undecodable
from vlmkit.data.flickr8k_layouts import image_folder, is_flickr8k_folder, read_captions, read_splits
from vlmkit.validation import one_of

logger = logging.getLogger(__name__)

_HUB_COPY = "jxie/flickr8k"
_ID_COLUMNS = ("image_id", "filename", "file_name", "image_name")
_PAPER_IMAGES, _PAPER_TRAIN = 2000, 1800


class _Photo(NamedTuple):
    """What is known of an image; `row` is its place in the table of all images."""

    image_id: str
    row: int
    captions: list[str]


def load_flickr8k(
    path_or_hub_id: str | Path | None = None,
    protocol: Literal["paper", "full"] = "full",
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
) -> DatasetDict:
    r"""Load Flickr8k as one row per image: `image`, `captions` (a list) and `image_id`, a string.

    A folder holds the images in `Images` (or `Flicker8k_Dataset`, `Flickr8k_Dataset`), the captions in `captions.txt`,
    `Flickr8k.token.txt` or Karpathy's `dataset_flickr8k.json`, and maybe the published lists
    (`Flickr_8k.trainImages.txt`, ...); the text files may lie in a direct sub-folder. Anything else goes to
    `datasets.load_dataset`; it needs a column `image` and the captions in `caption_0`, `caption_1`, ..., `captions`,
    `caption` or `text`, and may hold one row per caption if a column `image_id` or `filename` tells the image.

    All captions are read and all images decoded before the function returns. Images of a folder are stored as paths;
    a file that is replaced changes the table's fingerprint, so that caches keyed by it notice.

    Args:
        path_or_hub_id: a folder or a hub id; jxie/flickr8k if not given.
        protocol: "full" keeps all captions and the published splits train, validation and test; images in none of
            them are left out, and if there are no splits, the images are divided 6:1:1 at random. "paper" draws
            2,000 images at random, 1,800 to train and 200 to test, with the first caption of each. The original
            of that protocol drew anew for its evaluation, so that it tested on training images; here the two
            splits are disjoint.
        seed: of the random draws; the same images and seed give the same splits.
        on_error: "raise" stops at the first fault (an empty caption, a duplicate or malformed row, an image that is
            absent, cannot be decoded, has no caption or is listed twice); "skip" drops what is faulty, with one
            warning that counts it. A repetition among exactly five captions is no fault: the published data have some.

    Raises:
        FileNotFoundError: a captions file, a listed image, the image folder or one of three lists is absent.
        ValueError: an unknown option, a fault (the message names file and row, or the image), no image left in a
            split, or fewer than 2,000 images for the protocol "paper".

    References:
        Hodosh et al., "Framing Image Description as a Ranking Task: Data, Models and Evaluation Metrics" (JAIR 2013);
        Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions" (arXiv:1412.2306).

    Example:
        >>> import tempfile, PIL.Image
        >>> directory = tempfile.TemporaryDirectory()
        >>> folder = Path(directory.name)
        >>> (folder / "Images").mkdir()
        >>> for name in "abcdefgh":
        ...     PIL.Image.new("RGB", (8, 8)).save(folder / "Images" / f"{name}.jpg")
        >>> rows = ["image,caption", *(f"{name}.jpg,The letter {name}" for name in "abcdefgh")]
        >>> _ = (folder / "captions.txt").write_text("\n".join(rows))
        >>> load_flickr8k(folder).num_rows
        {'train': 6, 'validation': 1, 'test': 1}
    """
    one_of("protocol", protocol, ("paper", "full"))
    faults = Faults(on_error)
    source = _HUB_COPY if path_or_hub_id is None else str(path_or_hub_id)
    folder = Path(source).expanduser()
    if is_flickr8k_folder(folder):
        images, splits = _from_folder(folder.resolve(), protocol, faults)
    else:
        images, splits = _from_datasets(source, faults)
    splits = {name: _usable(images, photos, faults) for name, photos in splits.items()}
    faults.report(source)
    splits = _paper_splits(splits, seed) if protocol == "paper" else _full_splits(splits, seed)
    empty = [name for name, photos in splits.items() if not photos]
    if empty:
        raise ValueError(f"{source} has no usable image for {' and '.join(empty)}")
    return _tables(images, splits)


def _from_folder(folder: Path, protocol: str, faults: Faults) -> tuple[Dataset, dict[str, list[_Photo]]]:
    """The images of a folder, and its splits; the protocol "paper" takes all images as one."""
    captions = group_captions(read_captions(folder, faults), faults)
    listed = read_splits(folder, faults) if protocol == "full" else None
    if listed is None:
        listed = {"train": list(captions)}
    unlisted = captions.keys() - set(chain.from_iterable(listed.values()))
    if unlisted:
        logger.info("%s: left out %d captioned images that are in no split", folder, len(unlisted))

    root = image_folder(folder)
    on_disk = {path.name for path in root.iterdir()}
    paths: list[Path] = []
    splits: dict[str, list[_Photo]] = {}
    for split, image_ids in listed.items():
        splits[split] = []
        for image_id in image_ids:
            if image_id in on_disk:
                splits[split].append(_Photo(image_id, len(paths), captions.get(image_id, [])))
                paths.append(root / image_id)
            else:
                faults.add("absent image", f"image {root / image_id} is absent", FileNotFoundError)
    columns = {"image": [str(path) for path in paths], "state": [_state(path) for path in paths]}
    images = Dataset.from_dict(columns, Features({"image": Image(), "state": Value("string")}))
    return images.remove_columns("state"), splits  # having been a column, the state stays in the fingerprint


def _state(path: Path) -> str:
    """What changes if a file is replaced: its size in bytes and its time of change in nanoseconds."""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _from_datasets(source: str, faults: Faults) -> tuple[Dataset, dict[str, list[_Photo]]]:
    """The images of anything that `datasets.load_dataset` reads, and its splits."""
    tables = load_dataset(source)
    splits: dict[str, list[_Photo]] = {}
    offset = 0
    for split, table in tables.items():
        splits[split] = _read_table(table, f"{source}, split {split}", split, offset, faults)
        offset += len(table)
    images = concatenate_datasets([table.select_columns("image") for table in tables.values()])
    return images.cast_column("image", Image()), splits


def _read_table(table: Dataset, source: str, split: str, offset: int, faults: Faults) -> list[_Photo]:
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
        faults,
    )
    first_rows: dict[str, int] = {}
    for row, image_id in enumerate(ids, start=offset):
        first_rows.setdefault(image_id, row)
    return [_Photo(image_id, row, captions.get(image_id, [])) for image_id, row in first_rows.items()]


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


def _usable(images: Dataset, photos: list[_Photo], faults: Faults) -> list[_Photo]:
    """The photos that have a caption and can be decoded."""
    encoded = images.cast_column("image", Image(decode=False))["image"]
    reasons = undecodable(encoded, [photo.row for photo in photos])
    usable = []
    for photo in photos:
        if not photo.captions:
            faults.add("image without caption", f"image {photo.image_id} has no caption")
        elif photo.row in reasons:
            faults.add("undecodable image", f"image {photo.image_id} cannot be decoded: {reasons[photo.row]}")
        else:
            usable.append(photo)
    return usable


def _paper_splits(splits: dict[str, list[_Photo]], seed: int) -> dict[str, list[_Photo]]:
    """2,000 images with their first caption: 1,800 to train, 200 to test."""
    photos = _shuffled(chain.from_iterable(splits.values()), seed)
    if len({photo.image_id for photo in photos}) < len(photos):
        raise ValueError('an image is in two splits; protocol="paper" could train and test on it')
    if len(photos) < _PAPER_IMAGES:
        raise ValueError(f'protocol="paper" draws {_PAPER_IMAGES} images, and there are {len(photos)}; use "full"')
    drawn = [photo._replace(captions=photo.captions[:1]) for photo in photos[:_PAPER_IMAGES]]
    return {"train": drawn[:_PAPER_TRAIN], "test": drawn[_PAPER_TRAIN:]}


def _full_splits(splits: dict[str, list[_Photo]], seed: int) -> dict[str, list[_Photo]]:
    """The splits as they are; if "train" is the only one, it is divided 6:1:1 at random."""
    if list(splits) != ["train"]:
        return splits
    photos = _shuffled(splits["train"], seed)
    logger.warning("no published splits: dividing %d images 6:1:1 at random with seed %d", len(photos), seed)
    held_out = max(1, len(photos) // 8)
    return {
        "train": photos[2 * held_out :],
        "validation": photos[:held_out],
        "test": photos[held_out : 2 * held_out],
    }


def _shuffled(photos: Iterable[_Photo], seed: int) -> list[_Photo]:
    """The photos in an order that depends on nothing but their ids and the seed."""
    ordered = sorted(photos, key=lambda photo: photo.image_id)
    random.Random(seed).shuffle(ordered)
    return ordered


def _tables(images: Dataset, splits: dict[str, list[_Photo]]) -> DatasetDict:
    """Attach captions and ids to the images and divide them, without copying pixels."""
    captions, ids = [[""]] * len(images), [""] * len(images)
    for photo in chain.from_iterable(splits.values()):
        captions[photo.row], ids[photo.row] = photo.captions, photo.image_id
    # Columns first: a table of selected rows would be copied to take another column.
    table = images.add_column("captions", captions, feature=List(Value("string")))
    table = table.add_column("image_id", ids, feature=Value("string"))
    return DatasetDict({name: table.select([photo.row for photo in photos]) for name, photos in splits.items()})
