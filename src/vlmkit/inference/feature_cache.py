"""Features of frozen towers, computed once and cached on disk.

A frozen tower returns the same features of an image in every epoch and in every combination with another tower. The
features of a dataset are saved in one Arrow file, whose name is a fingerprint of everything that they depend on: the
weights and the configuration of the tower, the preprocessing and the data. The file is renamed when it is complete. A
killed process may leave a temporary file `tmp...`, which can be deleted.
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
    """Replace the column `image` of a dataset with `image_pooled`, the pooled output of a vision tower.

    Args:
        vision_tower: Vision tower, such as `model.vision_tower` of a [`DualEncoderModel`]. It runs on its current
            device in evaluation mode and without gradients.
        processor: Processor of the model, which returns one crop per image. Images of different sizes require that
            it also returns a `pixel_attention_mask`.
        table: Dataset with the column `image`.
        batch_size: Number of images per forward pass. Default: 64.
        cache_dir: Directory of the cache file. Defaults to the folder `vlmkit` in the cache of `datasets`.

    Returns:
        The dataset with the column `image_pooled`, float32 tensors `(D,)`, in place of `image`.

    Raises:
        ValueError: If `table` does not have the column `image` or is empty, or the processor splits images into crops.

    Example:
        >>> from vlmkit import DualEncoderModel, DualEncoderProcessor
        >>> model = DualEncoderModel.from_pretrained("my-org/dual-encoder")  # doctest: +SKIP
        >>> processor = DualEncoderProcessor.from_pretrained("my-org/dual-encoder")  # doctest: +SKIP
        >>> table = cache_image_features(model.vision_tower, processor, table)  # doctest: +SKIP
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
    """Replace the column `image` of a dataset with `vision_features`, the output of a vision tower for every token.

    The file size is I * N * D * 4 bytes for I images, or half of this with float16. For example, 80,000 images with 49
    tokens of width 768 take 12 GB or 6 GB.

    Args:
        vision_tower: Vision tower, such as `model.get_encoder("image")`. It runs on its current device in evaluation
            mode and without gradients.
        processor: Processor of the model, which returns one crop of the same size for each image.
        table: Dataset with the column `image`.
        batch_size: Number of images per forward pass. Default: 64.
        cache_dir: Directory of the cache file. Defaults to the folder `vlmkit` in the cache of `datasets`.
        dtype: Data type of the values in the file. `"float16"` keeps about three significant digits. Default:
            `"float32"`.

    Returns:
        The dataset with the column `vision_features`, float32 tensors `(N, D)`, in place of `image`.

    Raises:
        ValueError: If `table` does not have the column `image` or is empty, `dtype` is unknown, a feature is too large
            for float16, or the processor splits images into crops or returns a `pixel_attention_mask`.

    Example:
        >>> from vlmkit import SmolVLM, VlmkitSmolVLMProcessor
        >>> model = SmolVLM.from_pretrained("my-org/smolvlm")  # doctest: +SKIP
        >>> processor = VlmkitSmolVLMProcessor.from_pretrained("my-org/smolvlm")  # doctest: +SKIP
        >>> vision_tower = model.get_encoder("image")  # doctest: +SKIP
        >>> table = cache_vision_features(vision_tower, processor, table, dtype="float16")  # doctest: +SKIP
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
                "returns a `pixel_attention_mask`. Set its `size` to a square, such as {'height': 224, 'width': 224}, "
                "or use images without cached features."
            )
        values = _on_cpu(_run_tower(vision_tower, inputs).last_hidden_state)
        if dtype == "float16" and (largest := values.abs().max()) > torch.finfo(torch.float16).max:
            raise ValueError(
                f"`dtype` must be 'float32' for features up to {largest:g}, which is too large for float16, but got "
                "'float16'."
            )
        return {"vision_features": values.numpy().astype(dtype)}

    if file.exists():
        features = Dataset.from_file(str(file)).features
    else:  # the type of the column includes the shape, which is computed from one image
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
    """Add the column `text_pooled` to a dataset, the pooled output of a text tower for each caption.

    Args:
        text_tower: Text tower, such as `model.text_tower` of a [`DualEncoderModel`]. It runs on its current device in
            evaluation mode and without gradients.
        processor: Processor of the model, which tokenizes the captions.
        table: Dataset with the column `captions`, a list of strings in each row.
        batch_size: Number of rows per forward pass, with all of their captions. Default: 64.
        cache_dir: Directory of the cache file. Defaults to the folder `vlmkit` in the cache of `datasets`.

    Returns:
        The dataset with the additional column `text_pooled`, float32 tensors `(number of captions in the row, D)`.

    Raises:
        ValueError: If `table` does not have the column `captions` or is empty.

    Example:
        >>> from vlmkit import DualEncoderModel, DualEncoderProcessor
        >>> model = DualEncoderModel.from_pretrained("my-org/dual-encoder")  # doctest: +SKIP
        >>> processor = DualEncoderProcessor.from_pretrained("my-org/dual-encoder")  # doctest: +SKIP
        >>> table = cache_text_features(model.text_tower, processor, table)  # doctest: +SKIP
    """
    check_can_encode(table, "captions")
    rows = table.select_columns("captions")
    # The token ids depend on both the captions and the preprocessing, so the fingerprint includes nothing else.
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
    """Check that a dataset contains a column and at least one row.

    Raises:
        ValueError: If `table` lacks the column or is empty.
    """
    check_columns(table, column)
    if len(table) == 0:
        raise ValueError("`table` must have at least one row, but is empty.")


def _process_images(processor: ProcessorMixin, images: list[Any]) -> dict[str, Tensor]:
    """Return the inputs of the vision tower for a batch of images.

    Raises:
        ValueError: If the processor splits images into crops.
    """
    inputs = processor(images=images, return_tensors="pt")
    if (num_crops := len(inputs["pixel_values"])) != len(images):
        raise ValueError(
            f"The image processor must return one crop per image, but {type(processor.image_processor).__name__} "
            f"returns {num_crops // len(images)}. Set its `do_image_splitting=False`, or use images without cached "
            "features."
        )
    return inputs


@torch.no_grad()
def _run_tower(tower: Tower, inputs: dict[str, Tensor]) -> BaseModelOutputWithPooling:
    names = [name for name in ("pixel_values", "pixel_attention_mask", "input_ids", "attention_mask") if name in inputs]
    on_device = {name: inputs[name].to(tower.backbone.device) for name in names}
    if "pixel_values" in on_device:  # convolutions are faster in the channels-last memory format
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
    """Return the cache file, whose name is a fingerprint of everything that the features depend on."""
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
    """Replace the images of a dataset with their features."""
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
    """Compute the features of all rows, or load them from an existing file."""
    return rows.map(
        encode,
        batched=True,
        batch_size=batch_size,
        remove_columns=rows.column_names,
        features=features,
        # By default, `datasets` caches results for a dataset in memory in a temporary folder.
        cache_file_name=str(file),
        new_fingerprint=file.stem,
        desc=description,
    )


def _join(table: Dataset, encoded: Dataset) -> Dataset:
    joined = concatenate_datasets([table, encoded], axis=1)
    cached = [name for name in _COLUMNS if name in joined.column_names]
    return joined.with_format("torch", columns=cached, output_all_columns=True)


def _tower_fingerprint(tower: Tower) -> str:
    """Compute a fingerprint of the weights, saved buffers, configuration and pooling of a tower."""
    return weights_fingerprint(tower, tower.backbone.config.to_json_string(), tower.pooling)
