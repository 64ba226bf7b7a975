"""Shared code of the paired CIFAR scripts: arguments, data loading, models and printed metrics."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TimmWrapperConfig,
)

from vlmkit import PairedCifarAlignerConfig
from vlmkit.data import ImageAugmentation, ImagePairs, load_cifar100
from vlmkit.metrics import pair_chance
from vlmkit.models.paired_cifar.caption_bank import embed_captions
from vlmkit.training import ContrastiveTrainingArguments

CUTOFFS = (1, 10, 100)


@dataclass
class DataArguments:
    """Images and how they are paired."""

    data: str = field(
        default="uoft-cs/cifar100",
        metadata={"help": "Hub id, folder of Parquet files, or original cifar-100-python folder or archive."},
    )
    num_validation: int = field(
        default=5000,
        metadata={"help": "Number of images held out of the training split if there is no validation split."},
    )
    image_size: int = field(default=32, metadata={"help": "Height and width of the images in memory, in pixels."})
    num_pairs: int | None = field(
        default=None, metadata={"help": "Number of pairs per epoch. Defaults to the number of images."}
    )
    different_class_probability: float = field(
        default=0.5,
        metadata={
            "help": "Probability that a training pair shows two different classes. With 100 classes, 0.99 draws both "
            "classes independently."
        },
    )
    pair_seed: int = field(default=0, metadata={"help": "Seed of the pairs."})


@dataclass
class AugmentationArguments:
    """Augmentation of each training image before two images are joined to a pair."""

    flip: float = field(default=0.0, metadata={"help": "Probability of a horizontal flip."})
    color_jitter: float = field(
        default=0.0, metadata={"help": "Strength of the changes of brightness, contrast and saturation."}
    )
    rotation: float = field(default=0.0, metadata={"help": "Maximum rotation in degrees, in both directions."})
    crop_padding: int = field(
        default=0, metadata={"help": "Padding in pixels, after which the image is randomly cropped to its size."}
    )
    rand_augment: int = field(default=0, metadata={"help": "Number of RandAugment operations per image."})
    mix: Literal["mix_up", "cut_mix"] | None = field(default=None, metadata={"help": "Mix the images of two pairs."})
    mix_alpha: float = field(
        default=1.0, metadata={"help": "Parameter of the Beta distribution from which mixing weights are drawn."}
    )

    def augmentation(self) -> ImageAugmentation:
        """Return the augmentation of single images."""
        return ImageAugmentation(self.flip, self.color_jitter, self.rotation, self.crop_padding, self.rand_augment)


@dataclass
class ModelArguments:
    """Image encoder, captions and loss, with the choices of the report as defaults."""

    text: str = field(
        default="openai/clip-vit-base-patch32", metadata={"help": "Folder or hub id of a frozen text encoder."}
    )
    text_pooling: Literal["mean", "cls", "last"] = "mean"
    vision: str = field(
        default="vit",
        metadata={"help": "Model type of transformers (vit, regnet, ...) or timm/NAME, trained from scratch."},
    )
    vision_args: str = field(
        default="{}",
        metadata={"help": "Arguments of the backbone configuration as JSON. They override the ViT of the report."},
    )
    vision_input: Literal["pair", "halves"] = "pair"
    input_size: int = field(
        default=32, metadata={"help": "Height and width to which images are resized for the encoder, in pixels."}
    )
    caption_normalization: Literal["none", "center", "whiten"] = "none"
    loss: Literal["in_batch", "full_bank"] = "in_batch"
    temperature: float = 0.07
    learn_temperature: bool = False
    label_smoothing: float = 0.0
    swap_loss_weight: float = 0.0
    swap_margin: float = 0.05
    class_loss_weight: float = 0.0

    def vision_config(self) -> PreTrainedConfig:
        """Return the configuration of the image backbone."""
        sizes = json.loads(self.vision_args)
        if self.vision.startswith("timm/"):
            return TimmWrapperConfig(architecture=self.vision.removeprefix("timm/"), model_args=sizes)
        if self.vision == "vit":
            sizes = {**PairedCifarAlignerConfig.enhanced().vision_config.to_diff_dict(), **sizes}
        return AutoConfig.for_model(self.vision, **{k: v for k, v in sizes.items() if k != "model_type"})

    def config(
        self, text_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, class_names: Sequence[str]
    ) -> PairedCifarAlignerConfig:
        """Return the configuration of the model, for the given text encoder and classes."""
        width = embed_captions(text_model, tokenizer, captions=["a photo"], pooling=self.text_pooling).shape[1]
        not_in_config = {"text", "text_pooling", "vision", "vision_args", "input_size"}
        return PairedCifarAlignerConfig(
            vision_config=self.vision_config(),
            text_embed_dim=width,
            class_names=list(class_names),
            **{name: value for name, value in vars(self).items() if name not in not_in_config},
        )


@dataclass
class AlignerTrainingArguments(ContrastiveTrainingArguments):
    """Training arguments with common defaults. Recipes are YAML files."""

    output_dir: str = "runs/paired_cifar"
    per_device_eval_batch_size: int = 500
    label_names: list[str] | None = field(default_factory=lambda: ["caption_ids"])  # passed to compute_metrics
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Decay of an exponential moving average of the weights, which is evaluated and saved."},
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this number of consecutive evaluations without improvement."}
    )


def load_pairs(arguments: DataArguments) -> dict[str, ImagePairs]:
    """Load a dataset of pairs for each split.

    Training pairs are redrawn in every epoch. Evaluation pairs are fixed, and their number is the number of images.
    """
    tables = load_cifar100(arguments.data, num_validation=arguments.num_validation)
    training = {
        "num_pairs": arguments.num_pairs,
        "different_class_probability": arguments.different_class_probability,
        "seed": arguments.pair_seed,
        "redraw": True,
    }
    return {
        split: ImagePairs(table, image_size=arguments.image_size, **(training if split == "train" else {}))
        for split, table in tables.items()
    }


def load_text_encoder(name: str | os.PathLike) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a text encoder and its tokenizer."""
    return AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)


def print_metrics(metrics: dict[str, float], pairs: ImagePairs, name: str) -> None:
    """Print metrics next to two baselines that do not depend on the images.

    "chance" is a random ranking of all captions. "same class first" ranks all captions of equal classes first.
    """
    chance = pair_chance(pairs.caption_ids, num_classes=pairs.num_classes, cutoffs=CUTOFFS)
    print(f"\n{name}: {len(pairs):,} pairs, {pairs.num_classes**2:,} captions")
    print(f"{'':24}{'model':>10}{'chance':>10}{'same class first':>20}")
    for k in CUTOFFS:
        top = f"top@{k}"
        print(f"{top:24}{metrics[top]:10.2%}{chance[f'uniform/{top}']:10.2%}{chance[f'same_class/{top}']:20.2%}")
    for key in ("map", "left_accuracy", "right_accuracy", "swapped_rate"):
        print(f"{key:24}{metrics[key]:10.2%}")
