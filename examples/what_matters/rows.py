"""Designs that ablation.py compares, by study and row."""

from dataclasses import dataclass
from typing import Any

from backbones import SIDE


@dataclass(frozen=True)
class Design:
    """Architecture and training mode of a model.

    The defaults are the first row of all studies except `five` and `captions`.

    Args:
        connector: Connector, see `VlmkitSmolVLMConfig`.
        fusion: Fusion of images and text, see `VlmkitSmolVLMConfig`.
        num_query_tokens: Number of latents of a Perceiver.
        perceiver_depth: Number of Perceiver layers, see `VlmkitSmolVLMConfig`.
        mode: Training mode of both backbones, see `adapt_backbones`.
        keep_aspect_ratio: Pad images to keep their aspect ratio, instead of resizing them to squares.
        split: Split images into four quarters and the whole image.
        vision: Vision tower for scenes, "base" or "small", or "given" for the pretrained one.
        text: Language model for scenes, "base" or "small", or "given" for the pretrained one.
        use_images: Include images. `False` gives the text-only baseline.
    """

    connector: str = "perceiver"
    fusion: str = "autoregressive"
    num_query_tokens: int = 64
    perceiver_depth: int = 3
    mode: str = "lora"
    keep_aspect_ratio: bool = False
    split: bool = False
    vision: str = "base"
    text: str = "base"
    use_images: bool = True

    def processor_options(self) -> dict[str, Any]:
        """Return the arguments of the processor."""
        options = {name: getattr(self, name) for name in ("connector", "fusion", "num_query_tokens")}
        if self.vision == "given":  # keeps the image processor of the pretrained model
            return options
        size = {"longest_edge": SIDE} if self.keep_aspect_ratio else {"height": SIDE, "width": SIDE}
        return {**options, "size": size, "do_image_splitting": self.split}

    def model_options(self) -> dict[str, Any]:
        """Return the configuration fields of the model that the processor does not determine."""
        # The language models for scenes have at most three layers, so each layer gets a cross-attention block.
        return {
            "perceiver_depth": self.perceiver_depth,
            "cross_layer_interval": 4 if self.text == "given" else 1,
        }


TEXT_ONLY = Design(use_images=False)
_GIVEN = {"vision": "given", "text": "given"}
STUDIES: dict[str, dict[str, Design]] = {
    "five": {
        "autoregressive without Perceiver / frozen": Design(connector="mlp", mode="frozen"),
        "autoregressive / frozen": Design(mode="frozen"),
        "cross-attention / frozen": Design(fusion="cross_attention", mode="frozen"),
        "cross-attention / LoRA": Design(fusion="cross_attention"),
        "autoregressive / LoRA": Design(),
        "autoregressive / full": Design(mode="full"),
    },
    "tokens": {
        "64 queries": Design(),
        "16 queries": Design(num_query_tokens=16),
        "4 queries": Design(num_query_tokens=4),
        "pixel shuffle": Design(connector="pixel_shuffle"),
        "all tokens": Design(connector="mlp"),
    },
    "depth": {"3 layers": Design(), "1 layer": Design(perceiver_depth=1)},
    "splitting": {"whole image": Design(), "quarters and whole": Design(split=True)},
    "aspect": {
        "squashed": Design(),
        "aspect ratio kept": Design(keep_aspect_ratio=True),
        "aspect ratio kept, split": Design(keep_aspect_ratio=True, split=True),
    },
    "backbones": {
        "both large": Design(),
        "smaller vision tower": Design(vision="small"),
        "smaller language model": Design(text="small"),
    },
    "captions": {
        "autoregressive without Perceiver / frozen": Design(**_GIVEN, connector="mlp", mode="frozen"),
        "autoregressive / frozen": Design(**_GIVEN, mode="frozen"),
        "cross-attention / frozen": Design(**_GIVEN, fusion="cross_attention", mode="frozen"),
        "cross-attention / LoRA": Design(**_GIVEN, fusion="cross_attention"),
        "autoregressive / LoRA": Design(**_GIVEN),
    },
}
