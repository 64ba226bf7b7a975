"""Frozen features, computed once per tower and kept on disk.

A frozen tower gives the same pooled vector for the same image in every epoch and in every combination with another
tower, so it runs once. A table's features lie in one Arrow file, named after all that they depend on: the tower's
weights and configuration, the preprocessing, and the data.
"""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets, config
from torch import Tensor
from transformers import ProcessorMixin

from vlmkit.modules.digest import text_digest, weights_digest
from vlmkit.modules.towers import TextTower, Tower, VisionTower


def cache_image_features(
    vision_tower: VisionTower,
    processor: ProcessorMixin,
    table: Dataset,
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Replace a table's `image` column by `image_pooled`, the vision tower's pooled output.

    Args:
        vision_tower: returns `pooler_output (B, D)` for `pixel_values`; it runs where its weights are, in evaluation
            mode and without gradients.
        processor: turns images into `pixel_values`.
        table: rows with an `image`.
        batch_size: images per forward pass.
        cache_dir: where the file lies; the `vlmkit` folder of the `datasets` cache if not given.

    Returns:
        The table with `image_pooled`, float32 tensors `(D,)`, in place of `image`.

    Raises:
        ValueError: the table has no column `image`.
    """
    _require(table, "image")
    preprocessing = processor.image_processor.to_json_string()
    key = text_digest("image", _tower_digest(vision_tower), preprocessing, table._fingerprint)

    def encode(batch: dict[str, list]) -> dict[str, Any]:
        inputs = processor(images=batch["image"], return_tensors="pt")
        return {"image_pooled": _pooled(vision_tower, inputs).numpy()}

    features = Features({"image_pooled": List(Value("float32"))})
    encoded = _encode(table.select_columns("image"), encode, features, key, batch_size, cache_dir, "Encoding images")
    return _join(table.remove_columns("image"), encoded)


def cache_text_features(
    text_tower: TextTower,
    processor: ProcessorMixin,
    table: Dataset,
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
        ValueError: the table has no column `captions`.
    """
    _require(table, "captions")
    rows = table.select_columns("captions")
    # The tokens themselves stand for both the captions and the preprocessing.
    tokens = [processor(text=captions)["input_ids"] for captions in rows["captions"]]
    key = text_digest("text", _tower_digest(text_tower), json.dumps(tokens))

    def encode(batch: dict[str, list]) -> dict[str, Any]:
        inputs = processor(text=list(chain.from_iterable(batch["captions"])), return_tensors="pt")
        sizes = [len(captions) for captions in batch["captions"]]
        return {"text_pooled": [block.numpy() for block in _pooled(text_tower, inputs).split(sizes)]}

    features = Features({"text_pooled": List(List(Value("float32")))})
    return _join(table, _encode(rows, encode, features, key, batch_size, cache_dir, "Encoding captions"))


def _require(table: Dataset, column: str) -> None:
    if column not in table.column_names:
        raise ValueError(f"the table has no column {column!r}, only {table.column_names}")


@torch.no_grad()
def _pooled(tower: Tower, inputs: dict[str, Tensor]) -> Tensor:
    names = [name for name in ("pixel_values", "input_ids", "attention_mask") if name in inputs]
    on_device = {name: inputs[name].to(tower.backbone.device) for name in names}
    if "pixel_values" in on_device:  # convolutions are faster with the channels last
        pixel_values = on_device["pixel_values"].to(tower.backbone.dtype)
        on_device["pixel_values"] = pixel_values.contiguous(memory_format=torch.channels_last)
    training = tower.training
    outputs = tower.eval()(**on_device)
    tower.train(training)
    return outputs.pooler_output.float().cpu()


def _encode(
    rows: Dataset,
    encode: Callable[[dict[str, list]], dict[str, Any]],
    features: Features,
    key: str,
    batch_size: int,
    cache_dir: str | Path | None,
    description: str,
) -> Dataset:
    folder = Path(cache_dir) if cache_dir is not None else Path(config.HF_DATASETS_CACHE) / "vlmkit"
    folder.mkdir(parents=True, exist_ok=True)
    return rows.map(
        encode,
        batched=True,
        batch_size=batch_size,
        remove_columns=rows.column_names,
        features=features,
        # Named by us: for a table in memory, `datasets` would put it into a folder that dies with the process.
        cache_file_name=str(folder / f"{key}.arrow"),
        new_fingerprint=key,
        desc=description,
    )


def _join(table: Dataset, encoded: Dataset) -> Dataset:
    joined = concatenate_datasets([table, encoded], axis=1)
    pooled = [name for name in ("image_pooled", "text_pooled") if name in joined.column_names]
    return joined.with_format("torch", columns=pooled, output_all_columns=True)


def _tower_digest(tower: Tower) -> str:
    """Changes with any weight, buffer, configuration or pooling of the tower."""
    return weights_digest(tower, tower.backbone.config.to_json_string(), tower.pooling)
