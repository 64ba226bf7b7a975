"""Frozen features, computed once per tower and kept on disk.

A frozen tower gives the same vision features and the same pooled vector for the same image in every epoch and in every
combination with another tower, so it runs once. A table's features lie in one Arrow file, named after all that they
depend on: the tower's weights and configuration, the preprocessing, and the data. The file gets its name when it is
complete. An interrupted run leaves nothing, a killed one a file `tmp...`, which can be deleted.
"""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Array2D, Dataset, Features, List, Value, concatenate_datasets, config
from torch import Tensor
from transformers import ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlmkit.data.table_checks import check_columns
from vlmkit.inference.evaluation_mode import evaluation_mode
from vlmkit.modules.fingerprint import text_fingerprint, weights_fingerprint
from vlmkit.modules.text_tower import TextTower
from vlmkit.modules.towers import Tower
from vlmkit.modules.vision_tower import VisionTower
from vlmkit.validation import check_choice

_COLUMNS = ("image_pooled", "vision_features", "text_pooled")


def cache_image_features(
    vision_tower: VisionTower,
    processor: ProcessorMixin,
    table: Dataset,
    *,
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Replace a table's `image` column by `image_pooled`, the vision tower's pooled output.

    Args:
        vision_tower: returns `pooler_output (B, D)` for `pixel_values`; it runs where its weights are, in evaluation
            mode and without gradients.
        processor: turns images into `pixel_values`, and of several sizes into a `pixel_attention_mask`, too.
        table: rows with an `image`.
        batch_size: images per forward pass.
        cache_dir: where the file lies; the `vlmkit` folder of the `datasets` cache if not given.

    Returns:
        The table with `image_pooled`, float32 tensors `(D,)`, in place of `image`.

    Raises:
        ValueError: the table has no column `image` or no rows, or the processor makes several crops of an image.
    """
    check_can_encode(table, "image")
    file = _get_image_cache_file(cache_dir, "image", vision_tower, processor, table)

    def encode(batch: dict[str, list]) -> dict[str, Any]:
        outputs = _run_tower(vision_tower, _process_images(processor, batch["image"]))
        return {"image_pooled": _on_cpu(outputs.pooler_output).numpy()}

    features = Features({"image_pooled": List(Value("float32"))})
    return _replace_images(table, encode, features, file, batch_size)


def cache_vision_features(
    vision_tower: VisionTower,
    processor: ProcessorMixin,
    table: Dataset,
    *,
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> Dataset:
    """Replace a table's `image` column by `vision_features`, the vision tower's output for every token.

    The file holds images * N * D * 4 bytes, or half of that in float16: for 80,000 images of 49 tokens of width 768,
    12 GB or 6 GB.

    Args:
        vision_tower: returns `last_hidden_state (B, N, D)` for `pixel_values`, N equal for all images; it runs where
            its weights are, in evaluation mode and without gradients.
        processor: turns images into `pixel_values`.
        table: rows with an `image`.
        batch_size: images per forward pass.
        cache_dir: where the file lies; the `vlmkit` folder of the `datasets` cache if not given.
        dtype: of the numbers in the file. float16 keeps three digits of each.

    Returns:
        The table with `vision_features`, float32 tensors `(N, D)`, in place of `image`.

    Raises:
        ValueError: the table has no column `image` or no rows, `dtype` is unknown, a number is too large for float16,
            or the processor makes several crops of an image, or a `pixel_attention_mask`, as its images may differ in
            size.
    """
    check_choice("dtype", dtype, ("float32", "float16"))
    check_can_encode(table, "image")
    settings = (str(vision_tower.layers), str(vision_tower.prefix_tokens), dtype)
    file = _get_image_cache_file(cache_dir, "vision features", vision_tower, processor, table, *settings)

    def encode(batch: dict[str, list]) -> dict[str, Any]:
        inputs = _process_images(processor, batch["image"])
        if "pixel_attention_mask" in inputs:
            raise ValueError(
                f"The image processor must return images of one size, but {type(processor.image_processor).__name__} "
                "returns a pixel_attention_mask. Set its size to a square, such as {'height': 224, 'width': 224}, or "
                "give the model the images themselves."
            )
        values = _on_cpu(_run_tower(vision_tower, inputs).last_hidden_state)
        if dtype == "float16" and (largest := values.abs().max()) > torch.finfo(torch.float16).max:
            raise ValueError(f"the vision features reach {largest:g}, too large for float16; use dtype='float32'")
        return {"vision_features": values.numpy().astype(dtype)}

    if file.exists():
        features = Dataset.from_file(str(file)).features
    else:  # the shape is part of the column's type, and one image tells it
        shape = encode(table.select_columns("image")[:1])["vision_features"].shape[1:]
        features = Features({"vision_features": Array2D(shape, dtype)})
    return _replace_images(table, encode, features, file, batch_size)


def cache_text_features(
    text_tower: TextTower,
    processor: ProcessorMixin,
    table: Dataset,
    *,
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Add `text_pooled`, the text tower's pooled output for each of a row's captions.

    Args:
        text_tower: returns `pooler_output (B, D)` for `input_ids` and `attention_mask`; it runs where its weights are,
            in evaluation mode and without gradients.
        processor: turns texts into tokens.
        table: rows with `captions`, a list of strings.
        batch_size: rows per forward pass.
        cache_dir: where the file lies; the `vlmkit` folder of the `datasets` cache if not given.

    Returns:
        The table with `text_pooled`, float32 tensors `(captions of the row, D)`.

    Raises:
        ValueError: the table has no column `captions` or no rows.
    """
    check_can_encode(table, "captions")
    rows = table.select_columns("captions")
    # The tokens themselves stand for both the captions and the preprocessing.
    tokens = [processor(text=captions)["input_ids"] for captions in rows["captions"]]
    file = _get_cache_file(cache_dir, "text", _tower_fingerprint(text_tower), json.dumps(tokens))

    def encode(batch: dict[str, list]) -> dict[str, Any]:
        outputs = _run_tower(
            text_tower, processor(text=list(chain.from_iterable(batch["captions"])), return_tensors="pt")
        )
        sizes = [len(captions) for captions in batch["captions"]]
        return {"text_pooled": [block.numpy() for block in _on_cpu(outputs.pooler_output).split(sizes)]}

    features = Features({"text_pooled": List(List(Value("float32")))})
    return _join(table, _encode(rows, encode, features, file, batch_size, "Encoding captions"))


def check_can_encode(table: Dataset, column: str) -> None:
    """Check that a table has rows and a column to encode.

    Raises:
        ValueError: If it lacks the column or has no rows.
    """
    check_columns(table, column)
    if len(table) == 0:
        raise ValueError("the table has no rows, so there is nothing to encode")


def _process_images(processor: ProcessorMixin, images: list[Any]) -> dict[str, Tensor]:
    """Return the inputs of the vision tower for some images.

    Raises:
        ValueError: If the processor makes several crops of an image.
    """
    inputs = processor(images=images, return_tensors="pt")
    if (num_crops := len(inputs["pixel_values"])) != len(images):
        raise ValueError(
            f"{type(processor.image_processor).__name__} makes {num_crops // len(images)} crops of an image, and a row "
            "has room for one; set its do_image_splitting=False, or give the model the images themselves"
        )
    return inputs


@torch.no_grad()
def _run_tower(tower: Tower, inputs: dict[str, Tensor]) -> BaseModelOutputWithPooling:
    names = [name for name in ("pixel_values", "pixel_attention_mask", "input_ids", "attention_mask") if name in inputs]
    on_device = {name: inputs[name].to(tower.backbone.device) for name in names}
    if "pixel_values" in on_device:  # convolutions are faster with the channels last
        pixel_values = on_device["pixel_values"].to(tower.backbone.dtype)
        on_device["pixel_values"] = pixel_values.contiguous(memory_format=torch.channels_last)
    with evaluation_mode(tower):
        return tower(**on_device)


def _on_cpu(features: Tensor) -> Tensor:
    return features.float().cpu()


def _get_image_cache_file(
    cache_dir: str | Path | None, kind: str, tower: VisionTower, processor: ProcessorMixin, table: Dataset, *more: str
) -> Path:
    preprocessing = processor.image_processor.to_json_string()
    return _get_cache_file(cache_dir, kind, _tower_fingerprint(tower), preprocessing, table._fingerprint, *more)


def _get_cache_file(cache_dir: str | Path | None, *parts: str) -> Path:
    """The file named after all that its features depend on."""
    folder = Path(cache_dir) if cache_dir is not None else Path(config.HF_DATASETS_CACHE) / "vlmkit"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{text_fingerprint(*parts)}.arrow"


def _replace_images(
    table: Dataset,
    encode: Callable[[dict[str, list]], dict[str, Any]],
    features: Features,
    file: Path,
    batch_size: int,
) -> Dataset:
    """The table with the images' features in place of its images."""
    encoded = _encode(table.select_columns("image"), encode, features, file, batch_size, "Encoding images")
    return _join(table.remove_columns("image"), encoded)


def _encode(
    rows: Dataset,
    encode: Callable[[dict[str, list]], dict[str, Any]],
    features: Features,
    file: Path,
    batch_size: int,
    description: str,
) -> Dataset:
    """The features of all rows, from the file if it is there."""
    return rows.map(
        encode,
        batched=True,
        batch_size=batch_size,
        remove_columns=rows.column_names,
        features=features,
        # Named by us: for a table in memory, `datasets` would put it into a folder that dies with the process.
        cache_file_name=str(file),
        new_fingerprint=file.stem,
        desc=description,
    )


def _join(table: Dataset, encoded: Dataset) -> Dataset:
    joined = concatenate_datasets([table, encoded], axis=1)
    cached = [name for name in _COLUMNS if name in joined.column_names]
    return joined.with_format("torch", columns=cached, output_all_columns=True)


def _tower_fingerprint(tower: Tower) -> str:
    """Changes with any weight, buffer, configuration or pooling of the tower."""
    return weights_fingerprint(tower, tower.backbone.config.to_json_string(), tower.pooling)
