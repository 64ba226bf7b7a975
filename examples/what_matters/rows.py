"""The designs that ablation.py compares, as rows of its studies."""

from dataclasses import dataclass
from typing import Any

from backbones import SIDE


@dataclass(frozen=True)
class Design:
    """A model and how it is trained; the defaults are what all studies but `five` and `captions` start from.

    Args:
        connector: see `VlmkitSmolVLMConfig`.
        fusion: see `VlmkitSmolVLMConfig`.
        num_query_tokens: of a Perceiver.
        perceiver_depth: see `VlmkitSmolVLMConfig`.
        mode: of both backbones, see `adapt_backbones`.
        keep_aspect_ratio: whether images are padded in place of squashed.
        split: whether images become four quarters and the whole.
        vision: which of the scenes' vision towers, or the `given` one.
        text: which of the scenes' language models, or the `given` one.
        sees: whether there are images at all.
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
    sees: bool = True

    def processor_options(self) -> dict[str, Any]:
        """Return the design and the image settings, from which the processor is built."""
        options = {name: getattr(self, name) for name in ("connector", "fusion", "num_query_tokens")}
        if self.vision == "given":  # with its own image processor
            return options
        size = {"longest_edge": SIDE} if self.keep_aspect_ratio else {"height": SIDE, "width": SIDE}
        return {**options, "size": size, "do_image_splitting": self.split}

    def model_options(self) -> dict[str, Any]:
        """Return the fields of the model's configuration that the processor does not determine."""
        # The scenes' language models have three layers.
        return {
            "perceiver_depth": self.perceiver_depth,
            "cross_layer_interval": 4 if self.text == "given" else 1,
        }


TEXT_ONLY = Design(sees=False)
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
