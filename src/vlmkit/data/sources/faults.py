"""Validation of images and captions when a data set is loaded."""

import io
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datasets.utils import tqdm
from PIL import Image

from vlmkit.validation import check_choice

# Flickr8k has five captions per image, and two annotators sometimes wrote the same sentence.
_PUBLISHED_CAPTIONS = 5


class Faults:
    """Handler of invalid data, which raises at the first fault or counts faults for a single warning.

    Args:
        on_error: `"raise"` raises an exception at the first fault. `"skip"` counts faults, and the caller drops the
            invalid data.

    Raises:
        ValueError: If `on_error` is neither `"raise"` nor `"skip"`.

    Example:
        >>> faults = Faults("raise")
        >>> faults.add("empty caption", "captions.txt, row 3: the caption is empty.")
        Traceback (most recent call last):
        ...
        ValueError: captions.txt, row 3: the caption is empty. Correct it, or drop invalid data with `on_error="skip"`.
    """

    def __init__(self, on_error: Literal["raise", "skip"] = "raise"):
        check_choice("on_error", on_error, ("raise", "skip"))
        self._on_error = on_error
        self._kinds: dict[str, str] = {}  # by message, so that a repeated fault is counted once

    def add(self, kind: str, message: str, *, error: type[Exception] = ValueError) -> None:
        """Raise an exception for a fault, or count the fault.

        Args:
            kind: Category for the counts, in the singular, such as "empty caption".
            message: Sentence that describes the fault and names the file and row, or the image.
            error: Type of the exception.

        Raises:
            Exception: If `on_error` is `"raise"`. Its type is `error`.
        """
        if self._on_error == "raise":
            raise error(f'{message} Correct it, or drop invalid data with `on_error="skip"`.')
        self._kinds[message] = kind

    def report(self, source: str) -> None:
        """Issue one warning with the number of faults of each kind, if there were any.

        Args:
            source: Name of the data set.
        """
        if self._kinds:
            counts = ", ".join(f"{kind} ({count})" for kind, count in Counter(self._kinds.values()).items())
            warnings.warn(f"Dropped invalid data of {source}: {counts}.", stacklevel=3)


class CaptionRow(NamedTuple):
    """Caption of an image, and its location in the source, such as "captions.txt, row 3"."""

    image_id: str
    caption: str
    where: str


def group_captions(rows: Iterable[CaptionRow], *, faults: Faults, repeats: bool = False) -> dict[str, list[str]]:
    """Group captions by image, and drop empty captions and duplicate rows.

    Leading and trailing white space is stripped. A repeated caption of an image is a duplicate row, unless the image
    has exactly five rows. In that case, as in the published Flickr8k, two annotators wrote the same caption.

    Args:
        rows: Captions in any order.
        faults: Handler of empty captions and duplicate rows.
        repeats: Accept all repeated captions. Required for COCO, where some images have six or seven captions.

    Returns:
        A dictionary from `image_id` to the list of captions, in the order of the rows. The list is empty if all
        captions of an image were dropped.

    Example:
        >>> rows = [CaptionRow("a.jpg", " A dog. ", "row 1"), CaptionRow("a.jpg", "Grass.", "row 2")]
        >>> group_captions(rows, faults=Faults())
        {'a.jpg': ['A dog.', 'Grass.']}
    """
    by_image: dict[str, list[CaptionRow]] = {}
    for row in rows:
        by_image.setdefault(row.image_id, []).append(row)
    captions: dict[str, list[str]] = {}
    for image_id, image_rows in by_image.items():
        kept = captions[image_id] = []
        for row in image_rows:
            caption = row.caption.strip()
            if not caption:
                faults.add("empty caption", f"{row.where}: the caption of {image_id} is empty.")
            elif caption in kept and not repeats and len(image_rows) != _PUBLISHED_CAPTIONS:
                faults.add("duplicate row", f"{row.where}: {image_id} already has the caption {caption!r}.")
            else:
                kept.append(caption)
    return captions


def find_undecodable(images: Sequence[Mapping[str, Any] | None], rows: Sequence[int]) -> dict[int, str]:
    """Find images that cannot be decoded completely.

    JPEGs are decoded at an eighth of their size, which reads every byte but is much faster than full decoding.

    Args:
        images: Encoded images in the format of `datasets.Image(decode=False)`, with the keys "bytes" and "path".
        rows: Indices of the images to check.

    Returns:
        A dictionary from the index of each undecodable image to the reason.

    Example:
        >>> find_undecodable([{"bytes": b"no image", "path": None}, None], rows=[1])
        {1: 'the image is missing'}
    """
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(lambda row: _decoding_error(images[row]), rows)
        progress = tqdm(reasons, desc="Checking images", total=len(rows), unit="image", delay=2)
        return {row: reason for row, reason in zip(rows, progress, strict=True) if reason}


def _decoding_error(encoded: Mapping[str, Any] | None) -> str | None:
    """Return the reason why an image cannot be decoded, or `None` for a valid image."""
    if encoded is None:
        return "the image is missing"
    source = encoded["path"] if encoded["bytes"] is None else io.BytesIO(encoded["bytes"])
    try:
        with Image.open(source) as image:
            image.draft("RGB", (32, 32))
            image.load()
    except Exception as error:  # PIL raises many types of exceptions for corrupt files
        return f"{type(error).__name__}: {error}"
    return None


def get_file_state(path: Path) -> str:
    """Return the size of a file in bytes and its modification time in nanoseconds, to detect changes of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
    """
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"
