"""Shared code of the SmolVLM scripts: loading of images and captions, and cached vision features."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, Image
from transformers import PreTrainedModel, ProcessorMixin

from vlmkit.data import load_coco_captions, load_flickr8k, load_scenes, stream_image_text, take_rows
from vlmkit.inference import cache_vision_features

CAPTIONED = ("coco", "flickr8k")
DATA_KINDS = (*CAPTIONED, "web")  # datasets that are loaded from --data
SHUFFLE_BUFFER = 1000  # number of rows in the shuffle buffer of a stream

Tables = dict[str, Any]  # by split; the training split of web is an IterableDataset, all other splits are tables


@dataclass
class SourceArguments:
    """Source and number of images and captions."""

    data: str | None = field(
        default=None,
        metadata={
            "help": "Folder or hub id. For coco also a captions file (training requires Karpathy's), for web a pattern "
            "of shards."
        },
    )
    image_folder: str | None = field(
        default=None, metadata={"help": "Folder of the images if --data is a captions file."}
    )
    max_images: int | None = field(default=None, metadata={"help": "Maximum number of images per split and dataset."})
    on_error: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "Whether invalid rows raise an error or are skipped."}
    )
    num_held_out: int = field(
        default=500, metadata={"help": "Number of images at the start of web that are held out for evaluation."}
    )


@dataclass
class DataArguments(SourceArguments):
    """Dataset of images and captions."""

    dataset: Literal["coco", "flickr8k", "scenes", "web"] = field(
        default="scenes", metadata={"help": "Dataset. 'scenes' are synthetic and require no --data; 'web' is streamed."}
    )


def check_source(datasets: Sequence[str], source: SourceArguments) -> None:
    """Check that the flags match the datasets.

    Raises:
        SystemExit: If a flag is missing or has no effect.
    """
    held = [name for name in DATA_KINDS if name in datasets]
    if len(held) > 1:
        raise SystemExit(f"`--data` can contain only one dataset, but got {' and '.join(held)}. Select one of them.")
    if source.data is not None and not held:
        raise SystemExit(
            f"`--data` must not be set for {' and '.join(datasets)}, but got {source.data}. Remove it, or select the "
            f"dataset that it contains: {', '.join(DATA_KINDS)}."
        )
    if source.data is None and held and held != ["flickr8k"]:
        kinds = {
            "coco": "a folder, a hub id or a captions file (for training, Karpathy's)",
            "web": "a folder of shards or a pattern",
        }
        raise SystemExit(f"The dataset {held[0]} requires `--data`. Pass {kinds[held[0]]}.")
    if source.image_folder is not None and held != ["coco"]:
        raise SystemExit(
            f"`--image_folder` requires a captions file of coco, but got {source.image_folder} for "
            f"{' and '.join(datasets)}. Remove it."
        )
    if source.max_images is not None and held == ["web"]:
        raise SystemExit(
            f"`--max_images` is not supported for web, which is streamed, but got {source.max_images}. Remove it and "
            "set `--max_steps`."
        )


def check_streaming(datasets: Sequence[str], max_steps: int, cache_vision_features: str) -> None:
    """Check that training does not require a table if the dataset web is streamed.

    Raises:
        SystemExit: If training runs for epochs, or caches the vision features of all images.
    """
    if "web" not in datasets:
        return
    if max_steps <= 0:
        raise SystemExit(
            f"`--max_steps` must be positive for web, which is streamed and has no length, but got {max_steps}."
        )
    if cache_vision_features != "no":
        raise SystemExit(
            f"`--cache_vision_features` must be no for web, which is streamed, but got {cache_vision_features}."
        )


def load_tables(dataset: str, source: SourceArguments, training: bool = True) -> Tables:
    """Load the splits of a dataset.

    Args:
        dataset: Name of the dataset.
        source: Source arguments of the script.
        training: Require a training split in addition to an evaluation split.

    Raises:
        SystemExit: If a required split is missing.
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
        raise SystemExit(
            f"{source.data} must contain a training split and a validation or test split, but got {', '.join(tables)}."
        )
    if not scored and len(tables) > 1:
        raise SystemExit(f"{source.data} must contain a validation or test split, but got {', '.join(tables)}.")
    return tables


def stream_tables(source: SourceArguments) -> Tables:
    """Return the first images of web as a validation table, and an infinite training stream of all other images.

    The stream is infinite because the shards of several processes differ in length. With finite streams, processes with
    more data would wait indefinitely for the others.

    Raises:
        SystemExit: If no images are left for training.
    """
    stream = stream_image_text(source.data, source.on_error)
    encoded = stream.cast_column("image", Image(decode=False))
    rows = list(encoded.take(source.num_held_out + 1))
    if len(rows) <= source.num_held_out:
        raise SystemExit(
            f"`--num_held_out` must be less than the number of valid images in {source.data}, {len(rows)}, but got "
            f"{source.num_held_out}."
        )
    validation = Dataset.from_list(rows[:-1], encoded.features).cast_column("image", Image())
    # Filtering decodes the images, so it comes after shuffling: a buffer of encoded images is smaller.
    shuffled = stream.repeat(None).shuffle(seed=0, buffer_size=SHUFFLE_BUFFER)
    # With stream.skip(), every DataLoader worker would skip rows of different shards and train on held-out rows.
    ids = set(validation["image_id"])
    train = shuffled.filter(is_not_in, input_columns="image_id", fn_kwargs={"ids": ids})
    return {"train": train, "validation": validation}


def is_not_in(image_id: str, ids: Set[str]) -> bool:
    """Return whether an image is not in `ids`. A module-level function, because DataLoader workers may pickle it."""
    return image_id not in ids


def data_name(dataset: str, data: str | None) -> str:
    """Return the name of a dataset for the model card."""
    if data is not None and dataset in DATA_KINDS:
        return Path(data).name
    return "synthetic scenes" if dataset == "scenes" else dataset


def cached_tables(model: PreTrainedModel, processor: ProcessorMixin, tables: Tables, dtype: str) -> Tables:
    """Replace the images of all tables by cached features of the frozen vision tower."""
    return {
        name: cache_vision_features(model.get_encoder("image"), processor, table, dtype=dtype)
        for name, table in tables.items()
    }
