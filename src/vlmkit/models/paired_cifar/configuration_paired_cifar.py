"""Configuration of [`PairedCifarAligner`]."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, ViTConfig

from vlmkit.base.configuration import VlmkitConfig
from vlmkit.cifar100_classes import CIFAR100_CLASSES
from vlmkit.compat.sub_configs import SubConfigSpec
from vlmkit.models.paired_cifar.pair_captions import CAPTION_TEMPLATE, check_captions
from vlmkit.modules.temperature import check_temperature


@strict
class PairedCifarAlignerConfig(VlmkitConfig):
    """An image encoder for pairs, the captions that it is compared with, and the loss. The defaults are the report's.

    Args:
        vision_config: any image backbone of transformers, or of timm as `timm_wrapper`, trained from scratch. Default:
            the report's "enhanced" ViT, see [`enhanced`].
        vision_input: `"pair"` (the report: one encoder sees both images side by side) or `"halves"` (one encoder sees
            the left and then the right image; both vectors and their elementwise product are joined).
        vision_pooling: `"pooler"`, `"cls"`, `"mean"`, or `"auto"` for the first of these that the backbone has.
        class_names: of the images, in the order of their labels. Default: the 100 of CIFAR-100.
        caption_template: the caption, with `{a}` for the left image's class and `{b}` for the right one's.
        text_embed_dim: width of the text encoder's embeddings. 512 are CLIP ViT-B/32's.
        text_encoder: which encoder embedded the captions; written by `build_caption_bank`.
        caption_normalization: what is done to the captions' embeddings before they are scaled to unit length: `"none"`
            (the report), `"center"` (their mean is subtracted) or `"whiten"` (and their directions are made equally
            strong, so that captions which differ in one class or in the order are far apart).
        loss: `"in_batch"` (the report: InfoNCE among the batch's captions) or `"full_bank"` (among all captions).
        temperature: logits are cosine similarities divided by it; where training starts if it is learned.
        learn_temperature: whether the temperature is trained (never below 0.01).
        label_smoothing: part of the target that is spread over all captions; with `"full_bank"` only.
        swap_loss_weight: weight of the hinge between a caption and the one with left and right exchanged. Default: off.
        swap_margin: by how much more similar the right one of these two has to be, as a difference of cosines.
        class_loss_weight: weight of two auxiliary classifiers, of the left and of the right image. Default: off.

    Raises:
        TypeError: an unknown keyword (the message names the closest field).
        StrictDataclassFieldValidationError: a value of the wrong type, or none of the choices.
        ValueError: captions that cannot be told apart or filled in, or a number out of its range.

    References:
        A report on paired CIFAR-100 images (see `docs/papers.md`): ViT, template, in-batch loss, temperature 0.07.
        Joined vectors: Conneau et al., "Supervised Learning of Universal Sentence Representations" (arXiv:1705.02364).
        Whitening: Su et al., "Whitening Sentence Representations for Better Semantics and Faster Retrieval"
        (arXiv:2103.15316).

    Example:
        >>> PairedCifarAlignerConfig.baseline(text_embed_dim=384).vision_config.num_hidden_layers
        1
    """

    model_type = "vlmkit_paired_cifar_aligner"
    sub_configs_defaults = {"vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit")}  # noqa: RUF012
    # Over a whole evaluation set, only the embeddings are worth keeping.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["logits_per_image", "hidden_states", "attentions"]

    vision_config: PreTrainedConfig | dict | None = None
    vision_input: Literal["pair", "halves"] = "pair"
    vision_pooling: Literal["auto", "pooler", "cls", "mean"] = "auto"
    class_names: list[str] = field(default_factory=lambda: list(CIFAR100_CLASSES))
    caption_template: str = CAPTION_TEMPLATE
    text_embed_dim: int = 512
    text_encoder: str | None = None
    caption_normalization: Literal["none", "center", "whiten"] = "none"
    loss: Literal["in_batch", "full_bank"] = "in_batch"
    temperature: float | int = 0.07
    learn_temperature: bool = False
    label_smoothing: float | int = 0.0
    swap_loss_weight: float | int = 0.0
    swap_margin: float | int = 0.05
    class_loss_weight: float | int = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the values, and fill in the report's encoder."""
        check_captions(self.caption_template, self.class_names)
        check_temperature(self.temperature, self.learn_temperature)
        if self.text_embed_dim < 1:
            raise ValueError(f"text_embed_dim is {self.text_embed_dim}; give the width of the text encoder")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; give a number from 0 to below 1")
        if self.label_smoothing and self.loss == "in_batch":
            raise ValueError("label_smoothing spreads the target over the whole bank; set loss='full_bank' with it")
        for name in ("swap_loss_weight", "swap_margin", "class_loss_weight"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} is {value}; give 0 to leave it out, or a positive number")
        if self.vision_config is None:
            self.vision_config = _vit(self.vision_input, num_hidden_layers=6, num_attention_heads=8)
        super().__post_init__(**kwargs)
        self._check_vit_size()

    def _check_vit_size(self) -> None:
        """A ViT's image size, which is fixed, must be that of a pair, or of half of one."""
        if not isinstance(self.vision_config, ViTConfig):
            return
        size, patch = (
            (value, value) if isinstance(value, int) else tuple(value)
            for value in (self.vision_config.image_size, self.vision_config.patch_size)
        )
        wanted = (size[0], size[0] * (2 if self.vision_input == "pair" else 1))
        if size != wanted:
            raise ValueError(
                f"vision_config.image_size is {size}, but vision_input={self.vision_input!r} wants (height, width) as "
                f"in {wanted}"
            )
        if size[0] % patch[0] or size[1] % patch[1]:
            raise ValueError(
                f"vision_config.image_size {size} is no multiple of patch_size {patch}; choose one that is"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes C; there are C² captions."""
        return len(self.class_names)

    @classmethod
    def baseline(cls, patch_size: int = 8, **fields: Any) -> "PairedCifarAlignerConfig":
        """The report's baseline: a ViT of 1 layer, 1 head, MLP width 1024 and ReLU; 2.22M parameters.

        Its normalisation comes before attention and MLP, as in all of our rows.

        Args:
            patch_size: side of the ViT's patches in pixels; 4 gives four times as many tokens.
            **fields: of the configuration.
        """
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 1024, "hidden_act": "relu"}
        vit = _vit(fields.get("vision_input", "pair"), patch_size=patch_size, **sizes)
        return cls(vision_config=vit, **fields)

    @classmethod
    def enhanced(cls, patch_size: int = 8, **fields: Any) -> "PairedCifarAlignerConfig":
        """The report's enhanced encoder: a ViT of 6 layers, 8 heads, MLP width 2048 and GELU.

        It has 19.0M parameters; the report's "about 15M" is a miscount.

        Args:
            patch_size: side of the ViT's patches in pixels; 4 gives four times as many tokens.
            **fields: of the configuration.
        """
        sizes = {"num_hidden_layers": 6, "num_attention_heads": 8}
        vit = _vit(fields.get("vision_input", "pair"), patch_size=patch_size, **sizes)
        return cls(vision_config=vit, **fields)


def _vit(vision_input: str, **sizes: Any) -> ViTConfig:
    """The report's ViT, of width 512 and in patches of 8x8, on two 32x32 images side by side, or on one."""
    image_size = (32, 64) if vision_input == "pair" else (32, 32)
    return ViTConfig(
        **{"image_size": image_size, "patch_size": 8, "hidden_size": 512, "intermediate_size": 2048, **sizes}
    )
