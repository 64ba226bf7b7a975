"""Images and captions that the scripts share, and their cached vision features."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, Image
from transformers import PreTrainedModel, ProcessorMixin

from vlmkit.data import load_coco_captions, load_flickr8k, load_scenes, stream_image_text, take_rows
from vlmkit.inference import cache_vision_features

CAPTIONED = ("coco", "flickr8k")
DATA_KINDS = (*CAPTIONED, "web")  # what --data can hold
SHUFFLE_BUFFER = 1000  # rows of a stream, of which the next one is drawn

Tables = dict[str, Any]  # by split; the training split of web is an IterableDataset, all others are tables


@dataclass
class SourceArguments:
    """Where images and captions come from, and how many of them."""

    data: str | None = field(
        default=None,
        metadata={
            "help": "folder or hub id, of coco also a captions file (to train: Karpathy's), of web a pattern of shards"
        },
    )
    image_folder: str | None = field(default=None, metadata={"help": "of the images, where --data is a captions file"})
    max_images: int | None = field(default=None, metadata={"help": "first images of each split of each data set"})
    on_error: Literal["raise", "skip"] = field(default="raise", metadata={"help": "what to do with faulty rows"})
    num_held_out: int = field(default=500, metadata={"help": "first images of web, to score on"})


@dataclass
class DataArguments(SourceArguments):
    """Which images and captions."""

    dataset: Literal["coco", "flickr8k", "scenes", "web"] = field(
        default="scenes", metadata={"help": "scenes are drawn, and need no data; web is streamed"}
    )


def check_source(datasets: Sequence[str], source: SourceArguments) -> None:
    """Check that the flags fit the data sets.

    Raises:
        SystemExit: If a flag is missing or has no effect.
    """
    held = [name for name in DATA_KINDS if name in datasets]
    if len(held) > 1:
        raise SystemExit(f"--data can hold {' or '.join(held)}, not both")
    if source.data is not None and not held:
        raise SystemExit(f"drop --data {source.data}, or name the data set that it holds: {', '.join(DATA_KINDS)}")
    if source.data is None and held and held != ["flickr8k"]:
        kinds = {
            "coco": "a folder, a hub id or a captions file (to train: Karpathy's)",
            "web": "a folder of shards, or a pattern of them",
        }
        raise SystemExit(f"{held[0]} needs --data: {kinds[held[0]]}")
    if source.image_folder is not None and held != ["coco"]:
        raise SystemExit(f"drop --image_folder {source.image_folder}: it goes with a captions file of coco")
    if source.max_images is not None and held == ["web"]:
        raise SystemExit(f"web is streamed: drop --max_images {source.max_images}, and give --max_steps")


def check_streaming(datasets: Sequence[str], max_steps: int, cache_vision_features: str) -> None:
    """Check that training does not need a table where the data set web is streamed.

    Raises:
        SystemExit: If training runs for epochs, or caches the vision features of all images.
    """
    if "web" not in datasets:
        return
    if max_steps <= 0:
        raise SystemExit("web is streamed and has no length: give --max_steps")
    if cache_vision_features != "no":
        raise SystemExit(
            f"--cache_vision_features must be no for web, which is streamed, but got {cache_vision_features}"
        )


def load_tables(dataset: str, source: SourceArguments, training: bool = True) -> Tables:
    """The splits of a data set.

    Args:
        dataset: its name.
        source: where it is.
        training: whether there must be a split to train on beside the one to score on.

    Raises:
        SystemExit: there is no such split.
    """
    if dataset == "web":
        return stream_tables(source)
    loaders = {
        "coco": lambda: load_coco_captions(
            source.data, image_folder=source.image_folder, max_images=source.max_images, on_error=source.on_error
        ),
        "flickr8k": lambda: load_flickr8k(source.data, on_error=source.on_error),
        "scenes": load_scenes,
    }
    tables = take_rows(loaders[dataset](), source.max_images)
    scored = {"validation", "test"} & set(tables)
    if training and not ("train" in tables and scored):
        raise SystemExit(f"{source.data} needs a split to train on and another to score on, not {', '.join(tables)}")
    if not scored and len(tables) > 1:
        raise SystemExit(f"{source.data} has neither a split validation nor test, only {', '.join(tables)}")
    return tables


def stream_tables(source: SourceArguments) -> Tables:
    """The first images of web as a table to score on, and an endless stream of the others to train on.

    Endless, as the parts that several processes read differ in length, and the longer ones would wait for ever.

    Raises:
        SystemExit: there are no others.
    """
    stream = stream_image_text(source.data, source.on_error)
    encoded = stream.cast_column("image", Image(decode=False))
    rows = list(encoded.take(source.num_held_out + 1))
    if len(rows) <= source.num_held_out:
        raise SystemExit(f"{source.data} holds {len(rows)} usable images: give a --num_held_out below that")
    validation = Dataset.from_list(rows[:-1], encoded.features).cast_column("image", Image())
    # Filtered last: that decodes the images, and a buffer of encoded ones is smaller.
    shuffled = stream.repeat(None).shuffle(seed=0, buffer_size=SHUFFLE_BUFFER)
    # Not stream.skip(): the workers of a DataLoader would skip rows of all shards, and train on the held-out ones.
    ids = set(validation["image_id"])
    train = shuffled.filter(is_not_in, input_columns="image_id", fn_kwargs={"ids": ids})
    return {"train": train, "validation": validation}


def is_not_in(image_id: str, ids: Set[str]) -> bool:
    """Whether an image is none of some others; a function, as the workers of a DataLoader may pickle it."""
    return image_id not in ids


def data_name(dataset: str, data: str | None) -> str:
    """What a model card calls a data set."""
    if data is not None and dataset in DATA_KINDS:
        return Path(data).name
    return "drawn scenes" if dataset == "scenes" else dataset


def cached_tables(model: PreTrainedModel, processor: ProcessorMixin, tables: Tables, dtype: str) -> Tables:
    """Replace the images of tables with the features of the frozen vision tower."""
    return {
        name: cache_vision_features(model.get_encoder("image"), processor, table, dtype=dtype)
        for name, table in tables.items()
    }
