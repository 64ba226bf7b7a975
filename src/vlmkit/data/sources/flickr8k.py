"""Loader of Flickr8k from a local folder or the Hugging Face Hub."""

import logging
import random
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Literal

from datasets import DatasetDict

from vlmkit.data.sources.caption_tables import (
    ListedImage,
    Photo,
    build_caption_tables,
    build_image_table,
    load_image_table,
    select_usable_photos,
)
from vlmkit.data.sources.faults import Faults, group_captions
from vlmkit.data.sources.flickr8k_layouts import image_folder, is_flickr8k_folder, read_captions, read_splits
from vlmkit.validation import check_choice

logger = logging.getLogger(__name__)

_HUB_COPY = "jxie/flickr8k"
_PAPER_IMAGES, _PAPER_TRAIN = 2000, 1800


def load_flickr8k(
    path_or_hub_id: str | Path | None = None,
    *,
    protocol: Literal["paper", "full"] = "full",
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
) -> DatasetDict:
    r"""Load Flickr8k with one row per image.

    A local folder contains

    - the images in `Images`, `Flicker8k_Dataset` or `Flickr8k_Dataset`,
    - the captions in `captions.txt`, `Flickr8k.token.txt` or Karpathy's `dataset_flickr8k.json`,
    - optionally, the published lists of the splits (`Flickr_8k.trainImages.txt`, ...).

    These may also be in a direct subfolder. Other folders and Hub ids are loaded by `datasets.load_dataset`. Their
    tables need a column `image`, and the captions in `captions`, `caption`, `text`, or numbered columns such as
    `caption_0`. They may have one row per caption if a column `image_id`, `filename`, `file_name` or `image_name`
    identifies the image.

    The function reads all captions and decodes all images once to validate them. Images of a folder are stored as
    paths, and replacing a file changes the fingerprint of the table.

    Args:
        path_or_hub_id: Folder or Hub id. Defaults to the data set `jxie/flickr8k`.
        protocol: `"full"` keeps all captions and the published splits train, validation and test. Images that are not
            in any split are dropped. Without published splits, the images are split 6:1:1 at random. `"paper"` draws
            1,800 training and 200 test images at random, with the first caption of each. The two splits are disjoint,
            unlike in the original study, which drew the test images from all images.
        seed: Seed of the random splits. The same images and seed give the same splits.
        on_error: `"raise"` raises an exception for invalid data: an empty caption, a duplicate or malformed row, or an
            image that is missing, cannot be decoded, has no caption or is listed twice. `"skip"` drops invalid data and
            issues one warning with the counts. A caption may be repeated if its image has exactly five captions, as in
            the published data.

    Returns:
        A `DatasetDict` whose tables have the columns `image`, `captions` (a list of strings) and `image_id` (a string).

    Raises:
        FileNotFoundError: If the data set does not exist, or a captions file, a listed image, the image folder or one
            of the three lists is missing.
        ValueError: If an option is unknown, the data are invalid, a split does not have any valid images, or `"paper"`
            is requested for fewer than 2,000 images or for overlapping splits.

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
    check_choice("protocol", protocol, ("paper", "full"))
    faults = Faults(on_error)
    source = _HUB_COPY if path_or_hub_id is None else str(path_or_hub_id)
    folder = Path(source).expanduser()
    if is_flickr8k_folder(folder):
        images, splits = build_image_table(_list_images(folder.resolve(), protocol, faults), faults)
    else:
        images, splits = load_image_table(source, faults=faults)
    splits = select_usable_photos(images, splits=splits, faults=faults)
    faults.report(source)
    splits = _paper_splits(splits, seed) if protocol == "paper" else _full_splits(splits, seed)
    return build_caption_tables(images, splits=splits, source=source)


def _list_images(folder: Path, protocol: str, faults: Faults) -> dict[str, list[ListedImage]]:
    """List the images of each split of a folder. For the protocol "paper", all images are in "train"."""
    captions = group_captions(read_captions(folder, faults), faults=faults)
    splits = read_splits(folder, faults) if protocol == "full" else None
    if splits is None:
        splits = {"train": list(captions)}
    unlisted = captions.keys() - set(chain.from_iterable(splits.values()))
    if unlisted:
        logger.info("Left out %d captioned images of %s that are not in any split.", len(unlisted), folder)
    root = image_folder(folder)
    return {
        split: [ListedImage(image_id, root / image_id, captions.get(image_id, [])) for image_id in image_ids]
        for split, image_ids in splits.items()
    }


def _paper_splits(splits: dict[str, list[Photo]], seed: int) -> dict[str, list[Photo]]:
    """Draw 1,800 training and 200 test images at random, with the first caption of each."""
    photos = _shuffled(chain.from_iterable(splits.values()), seed)
    if len({photo.image_id for photo in photos}) < len(photos):
        raise ValueError('`protocol="paper"` requires disjoint splits, but an image is in two splits. Use "full".')
    if len(photos) < _PAPER_IMAGES:
        raise ValueError(
            f'`protocol="paper"` requires at least {_PAPER_IMAGES} images, but got {len(photos)}. Use "full".'
        )
    drawn = [photo._replace(captions=photo.captions[:1]) for photo in photos[:_PAPER_IMAGES]]
    return {"train": drawn[:_PAPER_TRAIN], "test": drawn[_PAPER_TRAIN:]}


def _full_splits(splits: dict[str, list[Photo]], seed: int) -> dict[str, list[Photo]]:
    """Return the published splits, or split "train" 6:1:1 at random if it is the only one."""
    if list(splits) != ["train"]:
        return splits
    photos = _shuffled(splits["train"], seed)
    logger.warning("Without published splits, %d images were split 6:1:1 at random with seed %d.", len(photos), seed)
    held_out = max(1, len(photos) // 8)
    return {
        "train": photos[2 * held_out :],
        "validation": photos[:held_out],
        "test": photos[held_out : 2 * held_out],
    }


def _shuffled(photos: Iterable[Photo], seed: int) -> list[Photo]:
    """Shuffle photos. The order depends only on their ids and the seed."""
    ordered = sorted(photos, key=lambda photo: photo.image_id)
    random.Random(seed).shuffle(ordered)
    return ordered
