"""Shared code of the dual encoder scripts: arguments, data loading, feature caching and printed metrics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from vlmkit.analysis.plots import similarity_grid
from vlmkit.data import caption_matches, load_flickr8k, load_scenes
from vlmkit.inference import cache_image_features, cache_text_features, embed_table
from vlmkit.metrics import chance_recall, retrieval_metrics
from vlmkit.training import ContrastiveTrainingArguments


@dataclass
class DataArguments:
    """Dataset and protocol."""

    data: str | None = field(
        default=None,
        metadata={"help": "Folder or hub id of Flickr8k (jxie/flickr8k). Defaults to synthetic scenes."},
    )
    protocol: Literal["paper", "full"] = field(
        default="paper",
        metadata={
            "help": "'paper' draws 1,800 training and 200 test images with one caption each. 'full' uses the published "
            "splits with all captions."
        },
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of the images drawn by the protocol 'paper'."})
    on_error: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "Whether invalid rows raise an error or are skipped."}
    )


@dataclass
class DualEncoderTrainingArguments(ContrastiveTrainingArguments):
    """Training arguments with the hyperparameters of the paper as defaults."""

    output_dir: str = "runs/dual_encoder"
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    lr_scheduler_type: str = "cosine"
    num_train_epochs: float = 20
    per_device_train_batch_size: int = 256
    per_device_eval_batch_size: int = 256
    logging_strategy: str = "epoch"
    label_names: list[str] | None = field(default_factory=lambda: ["group_ids"])  # passed to compute_metrics


def load_tables(arguments: DataArguments) -> DatasetDict:
    """Load Flickr8k, or synthetic scenes if no dataset is given."""
    if arguments.data is None:
        return load_scenes(seed=arguments.split_seed)
    return load_flickr8k(
        arguments.data, protocol=arguments.protocol, seed=arguments.split_seed, on_error=arguments.on_error
    )


def cache_features(model: PreTrainedModel, processor: ProcessorMixin, table: Dataset) -> Dataset:
    """Add cached outputs of both towers to a table. Later calls read them from the cache."""
    return cache_text_features(model.text_tower, processor, cache_image_features(model.vision_tower, processor, table))


def score(
    model: PreTrainedModel, processor: ProcessorMixin, table: Dataset, cutoffs: Sequence[int]
) -> dict[str, float]:
    """Compute the retrieval metrics of a table."""
    embeds = embed_table(model, processor, table)
    return retrieval_metrics(embeds.image_embeds, embeds.text_embeds, cutoffs=cutoffs, relevant=relevance(table))


def relevance(table: Dataset) -> Tensor:
    """Return which captions describe which images, a boolean matrix `(num_images, num_captions)`.

    For synthetic scenes, the scene graph decides which captions are true. Otherwise only an image's own captions match.
    """
    if "scene" in table.column_names:
        return torch.from_numpy(caption_matches(table))
    num_captions = torch.tensor([len(captions) for captions in table["captions"]])
    return torch.eye(len(table), dtype=torch.bool).repeat_interleave(num_captions, dim=1)


def print_recalls(columns: dict[str, dict[str, float]], table: Dataset, cutoffs: Sequence[int]) -> None:
    """Print one row per direction and cutoff, with the chance level and one value per entry of `columns`."""
    relevant = relevance(table)
    print(f"\n{f'{relevant.shape[0]:,} images, {relevant.shape[1]:,} captions':32}{'chance':>8}", end="")
    print("".join(f"{name:>12}" for name in columns))
    for direction, matches in (("image_to_text", relevant), ("text_to_image", relevant.T)):
        for k in cutoffs:
            name = f"{direction}/recall@{k}"
            chance = chance_recall(matches.shape[1], num_matches=matches.sum(1), k=k)
            print(f"{name:32}{chance:8.1%}" + "".join(f"{metrics[name]:12.1%}" for metrics in columns.values()))


def draw_similarity(model: PreTrainedModel, processor: ProcessorMixin, table: Dataset, size: int, path: Path) -> None:
    """Plot the similarities of the first `size` images of a table and their first captions."""
    few = table.select(range(min(size, len(table))))
    few = few.map(lambda row: {"captions": row["captions"][:1]})
    embeds = embed_table(model, processor, few)
    captions = [captions[0] for captions in few["captions"]]
    similarity_grid(few["image"][:], captions, similarity=(embeds.image_embeds @ embeds.text_embeds.T).numpy()).savefig(
        path, dpi=120
    )
    print(f"similarity plot: {path}")
