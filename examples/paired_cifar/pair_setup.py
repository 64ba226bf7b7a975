"""Arguments, data, model and printed metrics that the scripts share."""

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
    """Which images, and how they are paired."""

    data: str = field(
        default="uoft-cs/cifar100",
        metadata={"help": "hub id, folder of parquet files, or original cifar-100-python folder or archive"},
    )
    num_validation: int = field(
        default=5000,
        metadata={"help": "images held out of the training split, if there is no validation split"},
    )
    image_size: int = field(default=32, metadata={"help": "side of each image in memory, in pixels"})
    num_pairs: int | None = field(default=None, metadata={"help": "pairs per epoch; as many as images if not given"})
    different_class_probability: float = field(
        default=0.5,
        metadata={"help": "how often a training pair shows two classes; 0.99 draws 100 classes independently"},
    )
    pair_seed: int = field(default=0, metadata={"help": "of the pairs"})


@dataclass
class AugmentationArguments:
    """What happens to each training image before it is put beside another."""

    flip: float = field(default=0.0, metadata={"help": "probability"})
    color_jitter: float = field(default=0.0, metadata={"help": "of brightness, contrast and saturation"})
    rotation: float = field(default=0.0, metadata={"help": "up to so many degrees to either side"})
    crop_padding: int = field(default=0, metadata={"help": "pixels around the image, which is then cropped at random"})
    rand_augment: int = field(default=0, metadata={"help": "operations of RandAugment per image"})
    mix: Literal["mix_up", "cut_mix"] | None = field(default=None, metadata={"help": "mix images of two pairs"})
    mix_alpha: float = field(default=1.0, metadata={"help": "of the Beta distribution of their shares"})

    def augmentation(self) -> ImageAugmentation:
        """The augmentation of single images."""
        return ImageAugmentation(self.flip, self.color_jitter, self.rotation, self.crop_padding, self.rand_augment)


@dataclass
class ModelArguments:
    """The image encoder, the captions and the loss; the defaults are the report's."""

    text: str = field(
        default="openai/clip-vit-base-patch32", metadata={"help": "folder or hub id of a frozen text encoder"}
    )
    text_pooling: Literal["mean", "cls", "last"] = "mean"
    vision: str = field(
        default="vit", metadata={"help": "model type of transformers (vit, regnet, ...) or timm/NAME, from scratch"}
    )
    vision_args: str = field(
        default="{}", metadata={"help": "JSON of the backbone's sizes; those of the report's ViT are changed by it"}
    )
    vision_input: Literal["pair", "halves"] = "pair"
    input_size: int = field(default=32, metadata={"help": "side to which the encoder's images are resized, in pixels"})
    caption_normalization: Literal["none", "center", "whiten"] = "none"
    loss: Literal["in_batch", "full_bank"] = "in_batch"
    temperature: float = 0.07
    learn_temperature: bool = False
    label_smoothing: float = 0.0
    swap_loss_weight: float = 0.0
    swap_margin: float = 0.05
    class_loss_weight: float = 0.0

    def vision_config(self) -> PreTrainedConfig:
        """The configuration of the image backbone."""
        sizes = json.loads(self.vision_args)
        if self.vision.startswith("timm/"):
            return TimmWrapperConfig(architecture=self.vision.removeprefix("timm/"), model_args=sizes)
        if self.vision == "vit":
            sizes = {**PairedCifarAlignerConfig.enhanced().vision_config.to_diff_dict(), **sizes}
        return AutoConfig.for_model(self.vision, **{k: v for k, v in sizes.items() if k != "model_type"})

    def config(
        self, text_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, class_names: Sequence[str]
    ) -> PairedCifarAlignerConfig:
        """The configuration of the whole model, for a text encoder's width and a list of classes."""
        width = embed_captions(text_model, tokenizer, captions=["a photo"], pooling=self.text_pooling).shape[1]
        elsewhere = {"text", "text_pooling", "vision", "vision_args", "input_size"}
        return PairedCifarAlignerConfig(
            vision_config=self.vision_config(),
            text_embed_dim=width,
            class_names=list(class_names),
            **{name: value for name, value in vars(self).items() if name not in elsewhere},
        )


@dataclass
class AlignerTrainingArguments(ContrastiveTrainingArguments):
    """What all runs share; the recipes are in the YAML files."""

    output_dir: str = "runs/paired_cifar"
    per_device_eval_batch_size: int = 500
    label_names: list[str] | None = field(default_factory=lambda: ["caption_ids"])  # what compute_metrics gets
    ema_decay: float | None = field(
        default=None, metadata={"help": "evaluate and save a moving average of the weights"}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "stop after so many evaluations without a better one"}
    )


def load_pairs(arguments: DataArguments) -> dict[str, ImagePairs]:
    """A data set of pairs for each split: drawn anew in each epoch to train on, as many as images to evaluate."""
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
    """A frozen text encoder and its tokenizer."""
    return AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)


def print_metrics(metrics: dict[str, float], pairs: ImagePairs, name: str) -> None:
    """Print the metrics of some pairs beside what can be had without looking at them."""
    chance = pair_chance(pairs.caption_ids, num_classes=pairs.num_classes, cutoffs=CUTOFFS)
    print(f"\n{name}: {len(pairs):,} pairs, {pairs.num_classes**2:,} captions")
    print(f"{'':24}{'model':>10}{'chance':>10}{'betting on equal classes':>28}")
    for k in CUTOFFS:
        top = f"top@{k}"
        print(f"{top:24}{metrics[top]:10.2%}{chance[f'uniform/{top}']:10.2%}{chance[f'same_class/{top}']:28.2%}")
    for key in ("map", "left_accuracy", "right_accuracy", "swapped_rate"):
        print(f"{key:24}{metrics[key]:10.2%}")
