"""Streaming loader of web-scale image-text data in shards."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datasets import Features, Image, IterableDataset, List, Value
from PIL import Image as PILImage
from PIL import ImageOps

from vlmkit.data.sources.faults import Faults
from vlmkit.data.sources.web_shard_layouts import IMAGE_SUFFIXES, Sample, find_shards, read_samples, shard_name
from vlmkit.validation import check_choice

logger = logging.getLogger(__name__)

_FEATURES = Features({"image": Image(), "captions": List(Value("string")), "image_id": Value("string")})


def stream_image_text(source: str | Path, on_error: Literal["raise", "skip"] = "raise") -> IterableDataset:
    """Stream images and captions from the shards of a web-scale data set, such as Conceptual Captions.

    The shards have one of the formats of img2dataset:

    - `output_format="webdataset"`: tar files, compressed or not, in which the files of a sample are adjacent.
    - `output_format="files"`: folders of files such as `000000000.jpg` and `000000000.txt`.

    The caption of a sample is the text of its `.txt` file, or else the value of "caption" in its `.json` file.

    Samples are read on demand, one at a time:

    - `shuffle(seed, buffer_size)` shuffles the shards, and also the rows within a buffer.
    - The workers of a `DataLoader` read different shards, so `num_workers` should not exceed the number of shards.
    - `state_dict` and `load_state_dict` resume a stream.
    - The stream does not have a length, so `Trainer` needs `max_steps`.

    Args:
        source: Folder of shards, a single shard, or a pattern such as `cc3m/{00000..00331}.tar` or `{cc3m,sbu}/*.tar`.
        on_error: `"raise"` raises an exception for invalid data: an image that cannot be decoded, an image without
            caption or a caption without image, an empty caption, text that is not UTF-8, or a corrupt or truncated tar
            file. `"skip"` drops invalid data, logs each case at the level INFO, and issues one warning with the counts
            at the end of each shard.

    Returns:
        An `IterableDataset` with the columns `image`, `captions` (a list with one caption) and `image_id`, which
        consists of folder, shard and sample, such as `cc3m/00000/000000000`.

    Raises:
        FileNotFoundError: If `source` does not contain any shards.
        ValueError: If `on_error` is unknown, or two shards have the same name in folders of the same name. During
            iteration, if the data are invalid. The message names the shard and the sample.

    Example:
        >>> import tempfile, PIL.Image
        >>> directory = tempfile.TemporaryDirectory()
        >>> shard = Path(directory.name) / "cc3m" / "00000"
        >>> shard.mkdir(parents=True)
        >>> PIL.Image.new("RGB", (8, 8)).save(shard / "000000000.jpg")
        >>> _ = (shard / "000000000.txt").write_text("a dark night")
        >>> stream = stream_image_text(shard.parent)
        >>> next(iter(stream.remove_columns("image")))
        {'captions': ['a dark night'], 'image_id': 'cc3m/00000/000000000'}
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    shards = [str(shard) for shard in find_shards(source)]
    # load_dataset("webdataset") stops at the first undecodable image, and silently skips the rest of a shard after a
    # corrupt header.
    return IterableDataset.from_generator(_rows, _FEATURES, {"shards": shards, "on_error": on_error})


def read_shard(shard: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    """Yield the rows of one shard, with encoded images in the format of `datasets.Image(decode=False)`.

    Args:
        shard: Path of a shard from [`find_shards`].
        faults: Handler of invalid data, see [`stream_image_text`].
    """
    for sample in read_samples(shard, faults):
        try:
            caption, image = _caption(sample), _image(sample)
        except _InvalidSample as fault:
            kind, reason = fault.args
            faults.add(kind, f"{shard}, sample {sample.key}: {reason}.")
        else:
            image_id = f"{shard_name(shard)}/{sample.key}"
            yield {"image": {"bytes": image, "path": None}, "captions": [caption], "image_id": image_id}


class _LoggedFaults(Faults):
    """Handler of invalid data that also logs each fault."""

    def add(self, kind: str, message: str, *, error: type[Exception] = ValueError) -> None:
        super().add(kind, message, error=error)
        logger.info("Dropped invalid data: %s", message)


class _InvalidSample(Exception):  # noqa: N818 (it is always caught in this module)
    """Internal exception for an invalid sample, with the kind of fault and the reason as arguments."""


def _rows(shards: list[str], on_error: Literal["raise", "skip"]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        faults = _LoggedFaults(on_error)
        yield from read_shard(Path(shard), faults)
        faults.report(shard)


def _caption(sample: Sample) -> str:
    """Return the caption of a sample without leading and trailing white space."""
    if "txt" in sample.files:
        caption = _decoded(sample, "txt")
    elif "json" in sample.files:
        caption = _json_caption(_decoded(sample, "json"))
    else:
        raise _InvalidSample("image without caption", "the sample has neither a .txt nor a .json")
    if not caption.strip():
        raise _InvalidSample("empty caption", "the caption is empty")
    return caption.strip()


def _decoded(sample: Sample, suffix: str) -> str:
    try:
        return sample.files[suffix].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _InvalidSample("text not in UTF-8", f"the .{suffix} is not UTF-8 ({error})") from None


def _json_caption(text: str) -> str:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _InvalidSample("malformed JSON", f"the .json is malformed ({error})") from None
    caption = content.get("caption") if isinstance(content, dict) else None
    if not isinstance(caption, str):
        raise _InvalidSample("image without caption", "the sample needs a .txt, or a string 'caption' in the .json")
    return caption


def _image(sample: Sample) -> bytes:
    """Return the encoded image after a check that `datasets` can decode it."""
    suffixes = sorted(IMAGE_SUFFIXES & sample.files.keys())
    if not suffixes:
        raise _InvalidSample("caption without image", "the sample does not have an image")
    if len(suffixes) > 1:
        raise _InvalidSample("several images", f"the sample has several images, .{' and .'.join(suffixes)}")
    encoded = sample.files[suffixes[0]]
    try:
        with PILImage.open(io.BytesIO(encoded)) as image:
            image.draft("RGB", (32, 32))  # decodes a JPEG at an eighth of its size, which reads every byte
            image.load()
            ImageOps.exif_transpose(image)  # as `datasets` does
    except Exception as error:  # PIL raises many types of exceptions for corrupt files
        reason = f"the image cannot be decoded: {type(error).__name__}: {error}"
        raise _InvalidSample("undecodable image", reason) from None
    return encoded
