"""Web-scale images and captions, read from shards one image after the other."""

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
    """Stream images with one caption each: `image`, `captions` (a list of one) and `image_id`, a string.

    It reads what img2dataset writes, of Conceptual Captions or any other list of URLs:

    - `output_format="webdataset"`: tar files, compressed or not, in which the files of a sample lie side by side;
    - `output_format="files"`: folders with `000000000.jpg` and `000000000.txt`.

    The caption is the `.txt`, else "caption" in the `.json`. `image_id` names folder, shard and sample, such as
    `cc3m/00000/000000000`.

    Nothing is read before it is asked for, and nothing but one sample is kept. The table has a split's methods that
    need no random access: `shuffle(seed, buffer_size)` draws the order of the shards and, with a buffer, of the rows;
    the workers of a `DataLoader` share the shards, so that there should be as many or more; `state_dict` and
    `load_state_dict` go on where a stream stopped. It has no length: give `Trainer` `max_steps`.

    Args:
        source: a folder of shards, one shard, or a pattern such as `cc3m/{00000..00331}.tar`, `{cc3m,sbu}/*.tar`.
        on_error: "raise" stops at the first fault (an image that cannot be decoded, an image without caption or the
            reverse, an empty caption, a text that is not UTF-8, a broken or truncated tar file); "skip" drops what is
            faulty, logs each case at level INFO, and warns once for each shard that has been read to its end.

    Raises:
        FileNotFoundError: there is no shard.
        ValueError: an unknown option, or two shards with the same name in folders of the same name. While streaming:
            a fault; the message names shard and sample.

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
    # Not load_dataset("webdataset"): an image that cannot be decoded ends its stream, and after a broken header it
    # leaves out the rest of the shard without a word.
    return IterableDataset.from_generator(_rows, _FEATURES, {"shards": shards, "on_error": on_error})


def read_shard(shard: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    """Read the rows of one shard, images encoded as by `datasets.Image(decode=False)`.

    Args:
        shard: one of [`find_shards`].
        faults: gets what is left out; see [`stream_image_text`].
    """
    for sample in read_samples(shard, faults):
        try:
            caption, image = _caption(sample), _image(sample)
        except _FaultySample as fault:
            kind, reason = fault.args
            faults.add(kind, f"{shard}, sample {sample.key}: {reason}")
        else:
            image_id = f"{shard_name(shard)}/{sample.key}"
            yield {"image": {"bytes": image, "path": None}, "captions": [caption], "image_id": image_id}


class _LoggedFaults(Faults):
    """Names each fault that it counts."""

    def add(self, kind: str, message: str, *, error: type[Exception] = ValueError) -> None:
        super().add(kind, message, error=error)
        logger.info("dropped: %s", message)


class _FaultySample(Exception):  # noqa: N818 (it never leaves this module)
    """The kind of fault and the reason."""


def _rows(shards: list[str], on_error: Literal["raise", "skip"]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        faults = _LoggedFaults(on_error)
        yield from read_shard(Path(shard), faults)
        faults.report(shard)


def _caption(sample: Sample) -> str:
    """The caption, stripped of white space."""
    if "txt" in sample.files:
        caption = _decoded(sample, "txt")
    elif "json" in sample.files:
        caption = _json_caption(_decoded(sample, "json"))
    else:
        raise _FaultySample("image without caption", "it has neither a .txt nor a .json")
    if not caption.strip():
        raise _FaultySample("empty caption", "the caption is empty")
    return caption.strip()


def _decoded(sample: Sample, suffix: str) -> str:
    try:
        return sample.files[suffix].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _FaultySample("text not in UTF-8", f"the .{suffix} is not UTF-8 ({error})") from None


def _json_caption(text: str) -> str:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _FaultySample("malformed JSON", f"the .json is malformed ({error})") from None
    caption = content.get("caption") if isinstance(content, dict) else None
    if not isinstance(caption, str):
        raise _FaultySample("image without caption", "there is no .txt, and no string 'caption' in the .json")
    return caption


def _image(sample: Sample) -> bytes:
    """The encoded image, if `datasets` will be able to decode it."""
    suffixes = sorted(IMAGE_SUFFIXES & sample.files.keys())
    if not suffixes:
        raise _FaultySample("caption without image", "it has no image")
    if len(suffixes) > 1:
        raise _FaultySample("several images", f"it has several images, .{' and .'.join(suffixes)}")
    encoded = sample.files[suffixes[0]]
    try:
        with PILImage.open(io.BytesIO(encoded)) as image:
            image.draft("RGB", (32, 32))  # reads every byte of a JPEG, and computes an eighth of its width
            image.load()
            ImageOps.exif_transpose(image)  # as `datasets` does
    except Exception as error:  # a broken file makes PIL raise nearly anything
        reason = f"the image cannot be decoded: {type(error).__name__}: {error}"
        raise _FaultySample("undecodable image", reason) from None
    return encoded
