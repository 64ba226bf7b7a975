"""The models that test_contract.py runs: every kind, with backbones that differ in what can go wrong."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tests import tiny
from torch import Tensor
from transformers import BertConfig, PreTrainedConfig, PreTrainedModel, ProcessorMixin, TimmWrapperConfig

from vlmkit.modules.precomputed_vision import PrecomputedVisionConfig
from vlmkit.registration import MODELS, Row


@dataclass(frozen=True)
class Case:
    """A configured model.

    Args:
        name: of the case, in pytest's output.
        config: makes the configuration.
        processor: makes the processor.
        inputs: makes a training batch, texts padded on the right.
        call: makes the arguments of a call of the processor.
        prepare: what a new model needs before it can be used.
        lora: what peft adapts and what it saves whole; `None` where there is no text model to adapt.
        eager_only: sub-configurations of backbones that have no other attention, and refuse to be asked for one.
    """

    name: str
    config: Callable[[], PreTrainedConfig]
    processor: Callable[[], ProcessorMixin]
    inputs: Callable[[], dict[str, Tensor]]
    call: Callable[[], dict[str, Any]]
    prepare: Callable[[Any], None] = lambda model: None
    lora: dict[str, Any] | None = None
    eager_only: tuple[str, ...] = ()

    @property
    def row(self) -> Row:
        return next(row for row in MODELS if row.config is type(self.config()))

    def model(self) -> PreTrainedModel:
        torch.manual_seed(0)
        model = self.row.model(self.config()).eval()
        self.prepare(model)
        return model


TRAINED = {"freeze_vision": False, "freeze_text": False}
CONTEXTUAL = {"text_features": "encoder", "projection": "shared", "projection_dim": 12}
# With weights this large, attention is far from uniform, and a mistake in it shows.
LARGE_WEIGHTS = {
    "vision_config": tiny.vision_config(initializer_range=0.5),
    "text_config": tiny.text_config(initializer_range=0.5),
}
BERT_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL_BERT = BertConfig(**BERT_SIZES, vocab_size=99, initializer_range=0.5)
SMALL_RESNET = TimmWrapperConfig(
    architecture="resnet10t", model_args={"channels": (8, 8, 16, 16), "stem_width": 8, "zero_init_last": False}
)
# Its buffers (shifted-window masks, relative positions) are not saved.
SMALL_SWIN = TimmWrapperConfig(
    architecture="swin_tiny_patch4_window7_224",
    model_args={"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 2)},
)


def dual_encoder(name: str, lora: dict[str, Any] | None = None, **fields: Any) -> Case:
    def config() -> PreTrainedConfig:
        return tiny.dual_encoder_config(**copy.deepcopy({**LARGE_WEIGHTS, **fields}))

    def call() -> dict[str, Any]:
        return {"images": [tiny.photo()], "text": tiny.SENTENCES[:1]}

    return Case(name, config, tiny.dual_encoder_processor, tiny.dual_encoder_inputs, call, lora=lora)


def paired_cifar(name: str, **fields: Any) -> Case:
    def config() -> PreTrainedConfig:
        large = tiny.vision_config(image_size=(16, 32), patch_size=8, initializer_range=0.5)
        return tiny.paired_cifar_config(**copy.deepcopy({"vision_config": large, **fields}))

    def call() -> dict[str, Any]:
        return {"images": [[tiny.photo(), tiny.photo(seed=1)]]}

    return Case(
        name, config, tiny.paired_cifar_processor, tiny.paired_cifar_inputs, call, prepare=tiny.build_caption_bank
    )


def qformer_captioner(name: str, lora: dict[str, Any] | None = None, **fields: Any) -> Case:
    def config() -> PreTrainedConfig:
        large = {
            "vision_config": tiny.vision_config(initializer_range=0.5),
            "text_config": tiny.gpt_neo_config(initializer_range=0.2),
        }
        return tiny.qformer_captioner_config(**copy.deepcopy({**large, **fields}))

    def call() -> dict[str, Any]:
        return {"images": [tiny.photo()], "text": tiny.SENTENCES[:1]}

    eager_only = ("text_config",) if config().text_config.model_type == "gpt_neo" else ()
    parts = (tiny.qformer_captioner_processor, tiny.qformer_captioner_inputs, call)
    return Case(name, config, *parts, lora=lora, eager_only=eager_only)


def qformer_aligner(name: str, lora: dict[str, Any] | None = None, **fields: Any) -> Case:
    def config() -> PreTrainedConfig:
        large = {
            "vision_config": tiny.vision_config(initializer_range=0.5),
            "text_config": tiny.distilbert_config(initializer_range=0.3),
        }
        return tiny.qformer_aligner_config(**copy.deepcopy({**large, **fields}))

    def call() -> dict[str, Any]:
        return {"images": [tiny.photo()], "text": tiny.SENTENCES[:1]}

    return Case(name, config, tiny.qformer_aligner_processor, tiny.qformer_aligner_inputs, call, lora=lora)


def smolvlm(name: str, lora: dict[str, Any] | None = None, images: dict[str, Any] | None = None, **fields: Any) -> Case:
    """With `images`, settings of its own image processor."""

    def config() -> PreTrainedConfig:
        large = {
            "vision_config": tiny.vision_config(initializer_range=0.5),
            "qformer_config": tiny.distilbert_config(initializer_range=0.3),
            "text_config": tiny.llama_config(**tiny.CHAT_TOKENS, initializer_range=0.3, tie_word_embeddings=True),
        }
        return tiny.smolvlm_config(**copy.deepcopy({**large, **fields}))

    def processor() -> ProcessorMixin:
        return tiny.smolvlm_processor() if images is None else tiny.crops_processor(config(), **images)

    def inputs() -> dict[str, Tensor]:
        batch = dict(processor().apply_chat_template(tiny.conversations(), return_labels=True))
        if isinstance(fields.get("vision_config"), PrecomputedVisionConfig):
            pixels = batch.pop("pixel_values")
            batch["vision_features"] = pixels.mean(dim=1).view(len(pixels), 64, 16)  # of another model
        return batch

    def call() -> dict[str, Any]:
        return {"images": [tiny.photo()], "text": ["is this a <image>"]}

    def open_gates(model: Any) -> None:
        for block in () if model.model.cross_attention is None else model.model.cross_attention.blocks:
            torch.nn.init.constant_(block.attention_gate, 0.7)
            torch.nn.init.constant_(block.feed_forward_gate, 0.7)

    return Case(name, config, processor, inputs, call, prepare=open_gates, lora=lora)


LORA_GPT2 = {
    "target_modules": r"text_tower\..*\.c_attn",
    "fan_in_fan_out": True,
    "modules_to_save": ["vision_projection"],
}
LORA_BERT = {"target_modules": r"text_tower\..*\.query", "modules_to_save": ["vision_projection"]}
LORA_BOTH = {**LORA_GPT2, "modules_to_save": ["vision_projection", "text_projection"]}
LORA_LLAMA = {"target_modules": r"model\.language_model\..*\.q_proj", "modules_to_save": ["connector"]}
LORA_QFORMER = {"target_modules": r"qformer\..*\.self_attention\..*\.q_proj", "modules_to_save": ["text_embeddings"]}
LORA_CHAT = {"target_modules": r"model\.language_model\..*\.(q_proj|c_attn)", "modules_to_save": ["connector"]}
LORA_CROSS_ATTENTION = {**LORA_CHAT, "modules_to_save": ["connector", "cross_attention.blocks.0"]}
CASES = [
    dual_encoder("dual_encoder-paper"),
    dual_encoder("dual_encoder-trained", LORA_BOTH, **TRAINED, **CONTEXTUAL, learn_temperature=True),
    dual_encoder("dual_encoder-sigmoid", LORA_BOTH, **CONTEXTUAL, loss="sigmoid", freeze_text=False),
    dual_encoder(
        "dual_encoder-cnn-bert",
        LORA_BERT,
        **TRAINED,
        vision_config=SMALL_RESNET,
        text_config=SMALL_BERT,
        text_features="encoder",
    ),
    dual_encoder("dual_encoder-swin", LORA_GPT2, **TRAINED, vision_config=SMALL_SWIN, text_features="encoder"),
    paired_cifar("paired_cifar-report"),
    paired_cifar(
        "paired_cifar-extras",
        loss="full_bank",
        caption_normalization="whiten",
        learn_temperature=True,
        label_smoothing=0.1,
        swap_loss_weight=0.5,
        class_loss_weight=0.5,
    ),
    paired_cifar(
        "paired_cifar-halves", vision_input="halves", vision_config=SMALL_RESNET, caption_normalization="center"
    ),
    qformer_captioner("qformer_captioner-gpt_neo", LORA_LLAMA),
    qformer_captioner(
        "qformer_captioner-llama-cnn",
        LORA_LLAMA,
        vision_config=SMALL_RESNET,
        text_config=tiny.llama_config(initializer_range=0.2, tie_word_embeddings=True),
        freeze_vision=False,
    ),
    qformer_captioner(
        "qformer_captioner-gpt2-layers", vision_layers=[1, -1], text_config=tiny.text_config(initializer_range=0.2)
    ),
    qformer_aligner("qformer_aligner-distilbert", LORA_QFORMER),
    qformer_aligner(
        "qformer_aligner-losses",
        learn_temperature=True,
        matching_loss_weight=0.5,
        captioning_loss_weight=2,
        freeze_vision=False,
    ),
    qformer_aligner(
        "qformer_aligner-cnn-bert",
        {**LORA_QFORMER, "modules_to_save": ["vision_projection", "matching_head"]},
        vision_config=SMALL_RESNET,
        text_config=BertConfig(**{**BERT_SIZES, "hidden_size": 24}, vocab_size=99, initializer_range=0.3),
        cross_attention_frequency=1,
        matching_loss_weight=1.0,
        freeze_vision=False,
    ),
    smolvlm("smolvlm-llama", LORA_CHAT),
    smolvlm(
        "smolvlm-cnn-bert-gpt2",
        {**LORA_CHAT, "fan_in_fan_out": True},
        vision_config=SMALL_RESNET,
        qformer_config=BertConfig(**{**BERT_SIZES, "hidden_size": 24}, vocab_size=99, initializer_range=0.3),
        text_config=tiny.text_config(**tiny.CHAT_TOKENS, initializer_range=0.3),
        cross_attention_frequency=1,
        freeze_vision=False,
    ),
    smolvlm("smolvlm-precomputed-vision", LORA_CHAT, vision_config=PrecomputedVisionConfig(hidden_size=16)),
    smolvlm("smolvlm-perceiver", LORA_CHAT, connector="perceiver", perceiver_depth=2),
    smolvlm("smolvlm-mlp-aspect", LORA_CHAT, {"size": {"longest_edge": 64}}, connector="mlp"),
    smolvlm(
        "smolvlm-pixel_shuffle-cross_attention",
        LORA_CROSS_ATTENTION,
        {"do_image_splitting": True},
        connector="pixel_shuffle",
        fusion="cross_attention",
        cross_layer_interval=2,
    ),
    smolvlm(
        "smolvlm-perceiver-cross_attention-gpt2",
        {**LORA_CROSS_ATTENTION, "fan_in_fan_out": True},
        {"size": {"longest_edge": 64}},
        connector="perceiver",
        fusion="cross_attention",
        cross_layer_interval=1,
        text_config=tiny.text_config(**tiny.CHAT_TOKENS, initializer_range=0.3),
        freeze_vision=False,
    ),
]
