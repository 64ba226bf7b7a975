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
from vlmkit.validation import check_at_least


@strict
class PairedCifarAlignerConfig(VlmkitConfig):
    """Configuration of an image encoder for pairs of images, of the captions of all pairs, and of the losses.

    The defaults follow a report on paired CIFAR-100 images.

    Args:
        vision_config: Configuration of an image backbone of transformers, or of timm as `timm_wrapper`, which is
            trained from scratch. Defaults to the "enhanced" ViT of the report, see
            [`PairedCifarAlignerConfig.enhanced`].
        vision_input: Input of the image encoder. `"pair"` encodes both images side by side as one image, as in the
            report. `"halves"` encodes the left and the right image separately with the same encoder, and concatenates
            both vectors and their elementwise product.
        vision_pooling: `"pooler"` (pooled output of the backbone), `"cls"` (class token), `"mean"` (mean over patches)
            or `"auto"` (the first of these three that the backbone supports).
        class_names: Names of the classes, in the order of their labels. Defaults to the 100 classes of CIFAR-100.
        caption_template: Template of the captions, with `{a}` for the class of the left image and `{b}` for the class
            of the right image.
        text_embed_dim: Width of the text embeddings. Defaults to 512, the width of CLIP ViT-B/32.
        text_encoder: Identifier of the text encoder that embedded the captions. It is set by
            [`PairedCifarAligner.build_caption_bank`].
        caption_normalization: Normalization of the caption embeddings before they are scaled to unit length: `"none"`,
            as in the report, `"center"` (subtract their mean) or `"whiten"` (also equalize the variance of all
            directions, which separates captions that differ only in one class or in the order).
        loss: `"in_batch"` (InfoNCE among the captions of the batch, as in the report) or `"full_bank"` (cross-entropy
            over all captions).
        temperature: Divisor of the cosine similarities in the logits, or its initial value if it is learned.
        learn_temperature: Whether the temperature is learned. A learned temperature is kept at or above 0.01.
        label_smoothing: Fraction of the target probability that is spread over all captions. Requires
            `loss="full_bank"`.
        swap_loss_weight: Weight of the hinge loss between a caption and the same caption with left and right exchanged,
            see [`swapped_margin`]. Defaults to 0, which disables it.
        swap_margin: Margin of the hinge loss, as a difference of cosine similarities.
        class_loss_weight: Weight of the cross-entropy of two auxiliary classifiers, which predict the classes of the
            left and of the right image. Defaults to 0, which disables them.

    Raises:
        TypeError: If a keyword is unknown. The message suggests the most similar field.
        StrictDataclassFieldValidationError: If a value has the wrong type, or is not one of the choices.
        ValueError: If the template and the class names do not give different captions, a number is out of range, or
            the image size of a ViT does not match `vision_input`.

    References:
        The report on paired CIFAR-100 images (see `docs/papers.md`) for the defaults; Conneau et al., "Supervised
        Learning of Universal Sentence Representations" (arXiv:1705.02364) for `vision_input="halves"`; Su et al.,
        "Whitening Sentence Representations for Better Semantics and Faster Retrieval" (arXiv:2103.15316) for
        `caption_normalization="whiten"`.

    Example:
        >>> PairedCifarAlignerConfig.baseline(text_embed_dim=384).vision_config.num_hidden_layers
        1
    """

    model_type = "vlmkit_paired_cifar_aligner"
    sub_configs_defaults = {"vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit")}  # noqa: RUF012
    # Large, and not needed for metrics.
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
        """Validate the fields, and set the default image backbone."""
        check_captions(self.caption_template, self.class_names)
        check_temperature(self.temperature, self.learn_temperature)
        check_at_least("text_embed_dim", self.text_embed_dim)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be at least 0 and less than 1, but got {self.label_smoothing}.")
        if self.label_smoothing and self.loss == "in_batch":
            raise ValueError(
                f"`label_smoothing` must be 0 with `loss='in_batch'`, but got {self.label_smoothing}. Set "
                "`loss='full_bank'` to smooth labels over all captions."
            )
        for name in ("swap_loss_weight", "swap_margin", "class_loss_weight"):
            check_at_least(name, getattr(self, name), minimum=0)
        if self.vision_config is None:
            self.vision_config = _vit(self.vision_input, num_hidden_layers=6, num_attention_heads=8)
        super().__post_init__(**kwargs)
        self._check_vit_size()

    def _check_vit_size(self) -> None:
        """Check that a ViT, whose image size is fixed, has the size of a pair or of one of its images.

        Raises:
            ValueError: If it has another size, or its patches do not cover the image.
        """
        if not isinstance(self.vision_config, ViTConfig):
            return
        size, patch = (
            (value, value) if isinstance(value, int) else tuple(value)
            for value in (self.vision_config.image_size, self.vision_config.patch_size)
        )
        expected = (size[0], size[0] * (2 if self.vision_input == "pair" else 1))
        if size != expected:
            width = "2 * height" if self.vision_input == "pair" else "height"
            raise ValueError(
                f"`vision_config.image_size` must be (height, {width}) with `vision_input={self.vision_input!r}`, such "
                f"as {expected}, but got {size}."
            )
        if size[0] % patch[0] or size[1] % patch[1]:
            raise ValueError(f"`vision_config.image_size` must be a multiple of `patch_size` {patch}, but got {size}.")

    @property
    def num_classes(self) -> int:
        """Return the number of classes, C. There are C² captions."""
        return len(self.class_names)

    @classmethod
    def baseline(cls, patch_size: int = 8, **fields: Any) -> "PairedCifarAlignerConfig":
        """Return the baseline configuration of the report.

        The encoder is a ViT with 1 layer, 1 attention head, MLP width 1024 and ReLU (2.22M parameters). Layer norms
        precede attention and MLP.

        Args:
            patch_size: Side of the patches of the ViT, in pixels. Half the side gives four times the tokens.
            **fields: Other fields of the configuration.
        """
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 1024, "hidden_act": "relu"}
        vit = _vit(fields.get("vision_input", "pair"), patch_size=patch_size, **sizes)
        return cls(vision_config=vit, **fields)

    @classmethod
    def enhanced(cls, patch_size: int = 8, **fields: Any) -> "PairedCifarAlignerConfig":
        """Return the enhanced configuration of the report.

        The encoder is a ViT with 6 layers, 8 attention heads, MLP width 2048 and GELU. It has 19.0M parameters, while
        the report states about 15M.

        Args:
            patch_size: Side of the patches of the ViT, in pixels. Half the side gives four times the tokens.
            **fields: Other fields of the configuration.
        """
        sizes = {"num_hidden_layers": 6, "num_attention_heads": 8}
        vit = _vit(fields.get("vision_input", "pair"), patch_size=patch_size, **sizes)
        return cls(vision_config=vit, **fields)


def _vit(vision_input: str, **sizes: Any) -> ViTConfig:
    """Return the configuration of a ViT for two 32x32 images side by side, or for one, with defaults of the report."""
    image_size = (32, 64) if vision_input == "pair" else (32, 32)
    return ViTConfig(
        **{"image_size": image_size, "patch_size": 8, "hidden_size": 512, "intermediate_size": 2048, **sizes}
    )
