"""The designs that ablation.py compares, as rows of its studies."""

from dataclasses import dataclass
from typing import Any

from backbones import PATCH, SIDE


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

    def model_fields(self) -> dict[str, Any]:
        """Fields of the model's configuration."""
        names = ("connector", "fusion", "num_query_tokens", "perceiver_depth")
        # The scenes' language models have three layers.
        return {name: getattr(self, name) for name in names} | {
            "cross_layer_interval": 4 if self.text == "given" else 1
        }

    def image_settings(self) -> dict[str, Any]:
        """Settings of the image processor; none for that of a given vision tower."""
        if self.vision == "given":
            return {}
        size = {"longest_edge": SIDE} if self.keep_aspect_ratio else {"height": SIDE, "width": SIDE}
        divisor = 2 * PATCH if self.connector == "pixel_shuffle" else PATCH
        return {"size": size, "size_divisor": divisor, "do_image_splitting": self.split}

    def num_image_tokens(self) -> int | None:
        """Places of a view in a text; `None` where its size tells, and 1 until the model is built that tells."""
        if self.fusion == "cross_attention":
            return 1
        if self.connector == "perceiver":
            return self.num_query_tokens
        return 1 if self.counts_patches else None

    @property
    def counts_patches(self) -> bool:
        """Whether only the built model tells how many tokens an image has."""
        return self.connector == "mlp" and self.vision == "given"


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
