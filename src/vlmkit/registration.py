"""Registration of configurations, models and processors with the Auto classes of transformers."""

from dataclasses import dataclass, field

import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from vlmkit.base.hub import SHIM_NAME
from vlmkit.models.dual_encoder import DualEncoderConfig, DualEncoderModel, DualEncoderProcessor
from vlmkit.models.paired_cifar import PairedCifarAligner, PairedCifarAlignerConfig, PairedCifarAlignerProcessor
from vlmkit.models.qformer_aligner import QFormerAligner, QFormerAlignerConfig, QFormerAlignerProcessor
from vlmkit.models.qformer_captioner import QFormerCaptioner, QFormerCaptionerConfig, QFormerCaptionerProcessor
from vlmkit.models.smolvlm import (
    SmolVLM,
    VlmkitSmolVLMConfig,
    VlmkitSmolVLMImageProcessor,
    VlmkitSmolVLMImageProcessorPil,
    VlmkitSmolVLMProcessor,
)
from vlmkit.modules.precomputed_vision import PrecomputedVisionConfig, PrecomputedVisionModel


@dataclass(frozen=True)
class Row:
    """A model with the classes that are registered for it.

    Args:
        config: Configuration class of the model.
        model: Model class.
        processor: Processor class of the model.
        auto_models: Names of the `AutoModel...` classes that build the model.
        image_processors: Image processor classes that vlmkit defines for the model, by backend (`"torchvision"`,
            `"pil"`).
    """

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    processor: type[ProcessorMixin]
    auto_models: tuple[str, ...]
    image_processors: dict[str, type[BaseImageProcessor]] = field(default_factory=dict)


MODELS = (
    Row(
        DualEncoderConfig,
        DualEncoderModel,
        DualEncoderProcessor,
        ("AutoModel", "AutoModelForZeroShotImageClassification"),
    ),
    Row(PairedCifarAlignerConfig, PairedCifarAligner, PairedCifarAlignerProcessor, ("AutoModel",)),
    Row(QFormerAlignerConfig, QFormerAligner, QFormerAlignerProcessor, ("AutoModel",)),
    Row(
        QFormerCaptionerConfig,
        QFormerCaptioner,
        QFormerCaptionerProcessor,
        ("AutoModel", "AutoModelForImageTextToText"),
    ),
    Row(
        VlmkitSmolVLMConfig,
        SmolVLM,
        VlmkitSmolVLMProcessor,
        ("AutoModel", "AutoModelForImageTextToText"),
        {"torchvision": VlmkitSmolVLMImageProcessor, "pil": VlmkitSmolVLMImageProcessorPil},
    ),
)


def register() -> None:
    """Register all models, and the backbone for precomputed vision features.

    It also sets `shim_map` of the configurations and processors, which write it as `auto_map` into saved checkpoints.
    Calling the function again changes nothing.
    """
    AutoConfig.register(PrecomputedVisionConfig.model_type, PrecomputedVisionConfig, exist_ok=True)
    AutoModel.register(PrecomputedVisionConfig, PrecomputedVisionModel, exist_ok=True)
    for row in MODELS:
        AutoConfig.register(row.config.model_type, row.config, exist_ok=True)
        AutoProcessor.register(row.config, row.processor, exist_ok=True)
        for name in row.auto_models:
            getattr(transformers, name).register(row.config, row.model, exist_ok=True)
        classes = {
            "AutoConfig": row.config,
            "AutoProcessor": row.processor,
            **dict.fromkeys(row.auto_models, row.model),
        }
        if row.image_processors:
            AutoImageProcessor.register(row.config, image_processor_classes=row.image_processors, exist_ok=True)
            classes["AutoImageProcessor"] = row.image_processors["torchvision"]

        shim_map = {auto: f"{SHIM_NAME}.{cls.__name__}" for auto, cls in classes.items()}
        for cls in (row.config, row.processor, *row.image_processors.values()):
            cls.shim_map = shim_map
