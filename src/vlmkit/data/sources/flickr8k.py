"""Flickr8k, from a local folder or the hub, as tables of one row per image."""

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
        FileNotFoundError: there is no data set; or a captions file, a listed image, the image folder or one of three
            lists is absent.
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
    check_choice("protocol", protocol, ("paper", "full"))
    faults = Faults(on_error)
    source = _HUB_COPY if path_or_hub_id is None else str(path_or_hub_id)
    folder = Path(source).expanduser()
    if is_flickr8k_folder(folder):
        images, splits = build_image_table(_listed(folder.resolve(), protocol, faults), faults)
    else:
        images, splits = load_image_table(source, faults=faults)
    splits = select_usable_photos(images, splits=splits, faults=faults)
    faults.report(source)
    splits = _paper_splits(splits, seed) if protocol == "paper" else _full_splits(splits, seed)
    return build_caption_tables(images, splits=splits, source=source)


def _listed(folder: Path, protocol: str, faults: Faults) -> dict[str, list[ListedImage]]:
    """The images of a folder by split; the protocol "paper" takes all of them as one."""
    captions = group_captions(read_captions(folder, faults), faults=faults)
    splits = read_splits(folder, faults) if protocol == "full" else None
    if splits is None:
        splits = {"train": list(captions)}
    unlisted = captions.keys() - set(chain.from_iterable(splits.values()))
    if unlisted:
        logger.info("%s: left out %d captioned images that are in no split", folder, len(unlisted))
    root = image_folder(folder)
    return {
        split: [ListedImage(image_id, root / image_id, captions.get(image_id, [])) for image_id in image_ids]
        for split, image_ids in splits.items()
    }


def _paper_splits(splits: dict[str, list[Photo]], seed: int) -> dict[str, list[Photo]]:
    """2,000 images with their first caption: 1,800 to train, 200 to test."""
    photos = _shuffled(chain.from_iterable(splits.values()), seed)
    if len({photo.image_id for photo in photos}) < len(photos):
        raise ValueError('an image is in two splits; protocol="paper" could train and test on it')
    if len(photos) < _PAPER_IMAGES:
        raise ValueError(f'protocol="paper" draws {_PAPER_IMAGES} images, and there are {len(photos)}; use "full"')
    drawn = [photo._replace(captions=photo.captions[:1]) for photo in photos[:_PAPER_IMAGES]]
    return {"train": drawn[:_PAPER_TRAIN], "test": drawn[_PAPER_TRAIN:]}


def _full_splits(splits: dict[str, list[Photo]], seed: int) -> dict[str, list[Photo]]:
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


def _shuffled(photos: Iterable[Photo], seed: int) -> list[Photo]:
    """The photos in an order that depends on nothing but their ids and the seed."""
    ordered = sorted(photos, key=lambda photo: photo.image_id)
    random.Random(seed).shuffle(ordered)
    return ordered
