"""Checks of images and captions before anything is trained on them."""

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

# Flickr8k has five captions per image, and its annotators sometimes wrote the same sentence.
_PUBLISHED_CAPTIONS = 5


class Faults:
    """Raises the first fault of a data set, or counts the faults and reports them together.

    Args:
        on_error: "raise" stops at the first fault; "skip" counts it, and the caller drops what is faulty.

    Raises:
        ValueError: `on_error` is neither.

    Example:
        >>> faults = Faults("raise")
        >>> faults.add("empty caption", "captions.txt, row 3: the caption is empty")
        Traceback (most recent call last):
        ...
        ValueError: captions.txt, row 3: the caption is empty; correct it, or drop such cases with on_error="skip"
    """

    def __init__(self, on_error: Literal["raise", "skip"] = "raise"):
        check_choice("on_error", on_error, ("raise", "skip"))
        self._on_error = on_error
        self._kinds: dict[str, str] = {}  # by message, so that a fault met twice counts once

    def add(self, kind: str, message: str, *, error: type[Exception] = ValueError) -> None:
        """Raise the fault or count it.

        Args:
            kind: what is counted, in the singular.
            message: what is wrong and in which file and row, or with which image.
            error: the exception to raise.

        Raises:
            Exception: of type `error`, if `on_error` is "raise".
        """
        if self._on_error == "raise":
            raise error(f'{message}; correct it, or drop such cases with on_error="skip"')
        self._kinds[message] = kind

    def report(self, source: str) -> None:
        """Warn once of everything that was counted.

        Args:
            source: the data set's name.
        """
        if self._kinds:
            counts = ", ".join(f"{kind} ({count})" for kind, count in Counter(self._kinds.values()).items())
            warnings.warn(f"{source}: dropped what is faulty: {counts}", stacklevel=3)


class CaptionRow(NamedTuple):
    """One caption and where it was read, such as "captions.txt, row 3"."""

    image_id: str
    caption: str
    where: str


def group_captions(rows: Iterable[CaptionRow], *, faults: Faults, repeats: bool = False) -> dict[str, list[str]]:
    """Collect the captions of each image, stripped of white space, without empty ones and duplicate rows.

    A repeated caption is a duplicate row unless its image has exactly five rows: there it is what two annotators
    wrote, as happens in the published data.

    Args:
        rows: in any order.
        faults: gets the empty captions and the duplicate rows.
        repeats: whether no repeated caption is a fault, as in COCO: some of its images have six captions or seven.

    Returns:
        The captions by `image_id`, both in the order of their first row; the list is empty if no caption is left.

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
                faults.add("empty caption", f"{row.where}: the caption of {image_id} is empty")
            elif caption in kept and not repeats and len(image_rows) != _PUBLISHED_CAPTIONS:
                faults.add("duplicate row", f"{row.where}: {image_id} has the caption {caption!r} already")
            else:
                kept.append(caption)
    return captions


def find_undecodable(images: Sequence[Mapping[str, Any] | None], rows: Sequence[int]) -> dict[int, str]:
    """Find the images that cannot be decoded to the end.

    JPEGs are decoded at an eighth of their size, which reads every byte and takes a fraction of the time.

    Args:
        images: encoded as by `datasets.Image(decode=False)`, with the keys "bytes" and "path".
        rows: which of them to check.

    Returns:
        The reason for each row that fails.

    Example:
        >>> find_undecodable([{"bytes": b"no image", "path": None}, None], rows=[1])
        {1: 'there is no image'}
    """
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(lambda row: _decoding_error(images[row]), rows)
        progress = tqdm(reasons, desc="Checking images", total=len(rows), unit="image", delay=2)
        return {row: reason for row, reason in zip(rows, progress, strict=True) if reason}


def _decoding_error(encoded: Mapping[str, Any] | None) -> str | None:
    """The reason why an image cannot be decoded."""
    if encoded is None:
        return "there is no image"
    source = encoded["path"] if encoded["bytes"] is None else io.BytesIO(encoded["bytes"])
    try:
        with Image.open(source) as image:
            image.draft("RGB", (32, 32))
            image.load()
    except Exception as error:  # a broken file makes PIL raise nearly anything
        return f"{type(error).__name__}: {error}"
    return None


def get_file_state(path: Path) -> str:
    """What changes if a file is replaced: its size in bytes and its time of change in nanoseconds.

    Raises:
        FileNotFoundError: there is no such file.
    """
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"
