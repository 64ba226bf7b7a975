"""Converter for checkpoints of vlm-training."""

import copy
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    BaseImageProcessor,
    DistilBertConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ViTImageProcessor,
)

from vlmkit.base.modeling import VlmkitModel
from vlmkit.base.processing import VlmkitProcessor
from vlmkit.conversion.chat_templates import IMAGE_BEFORE_ANSWER
from vlmkit.conversion.files import (
    check_destination,
    check_weight_names,
    is_state_dict,
    read_json_file,
    read_safetensors_file,
    read_torch_file,
)
from vlmkit.conversion.renaming import original_names, renamed_weights
from vlmkit.models.qformer_aligner import QFormerAligner, QFormerAlignerConfig, QFormerAlignerProcessor
from vlmkit.models.smolvlm import SmolVLM, VlmkitSmolVLMConfig, VlmkitSmolVLMProcessor
from vlmkit.models.smolvlm.chat_template import supports_chatml
from vlmkit.modules.precomputed_vision import PrecomputedVisionConfig
from vlmkit.modules.towers import get_vision_config, load_backbone_config
from vlmkit.modules.vision_tower import VisionTower

_EXPECTED = "a folder with qformer/config.json, qformer/pytorch_model.bin, adapter.pt and lora_adapter"
_SIZE_ADVICE = "Pass qformer/config.json and qformer/pytorch_model.bin of the same training run."
_ALIGNER = "qformer_aligner"
_NUMBERS = ("n_queries", "cross_every", "num_heads")
# Fields of the DistilBERT configuration that affect the model. The original also saves unrelated ones.
_TEXT_FIELDS = (
    "vocab_size",
    "max_position_embeddings",
    "n_layers",
    "n_heads",
    "dim",
    "hidden_dim",
    "dropout",
    "attention_dropout",
    "activation",
    "pad_token_id",
)
_PACKED = re.compile(r"(cross_blocks\.\d+\.cross_attn)\.([qkv])_proj\.(weight|bias)")
_ADAPTER_NAMES = {"fc1.weight": "0.weight", "fc1.bias": "0.bias", "fc2.weight": "2.weight", "fc2.bias": "2.bias"}
_CARD_DATA = "Converted from the folder `{folder}` of the original code, which does not record its training data."


class _Original(NamedTuple):
    """Content of the folder of an original checkpoint, without the LoRA adapter.

    Args:
        folder: Path of the folder.
        config: Content of `qformer/config.json`.
        qformer: Weights of the Q-Former.
        adapter: Weights of the two layers between the Q-Former and the language model.
    """

    folder: Path
    config: dict[str, Any]
    qformer: dict[str, Tensor]
    adapter: dict[str, Tensor]


def convert_qformer_vlm(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    base_model: str | os.PathLike,
    vision_model: str | os.PathLike | None = None,
    text_tokenizer: str | os.PathLike | None = None,
) -> SmolVLM:
    """Convert a trained vision-language model and its Q-Former, and save them in two folders.

    - `destination` contains a [`SmolVLM`] and its processor. The LoRA adapter is merged into its language model with
      [peft](https://github.com/huggingface/peft).
    - `destination/qformer_aligner` contains a [`QFormerAligner`], the Q-Former with its text embeddings.

    Weights are converted to float32. `generate` samples replies with the settings of the original by default.

    The placeholder of image embeddings is the token `<image>` of the tokenizer. If the tokenizer is missing or lacks
    this token, the placeholder is a new token at the end of the vocabulary. With a ChatML tokenizer, the chat template
    inserts images between the question and the answer, as the original does.

    Args:
        source: Folder of the original, with `qformer/config.json`, `qformer/pytorch_model.bin`, `adapter.pt` and
            `lora_adapter`. Without `lora_adapter`, the language model is the unchanged base model. Only tensors and
            plain values are unpickled.
        destination: Output folder, which must be new or empty.
        base_model: Folder or Hub id of the language model that the LoRA adapter was trained on. If it is a folder
            without a tokenizer, no processor of the [`SmolVLM`] is saved.
        vision_model: Folder or Hub id of the image model that the checkpoint was trained with, which is
            `google/vit-base-patch16-224` in the original. By default, the models are built without a vision
            tower and take `vision_features`, and their processors use a default `ViTImageProcessor`.
        text_tokenizer: Folder or Hub id of the tokenizer of the Q-Former, which is
            `distilbert/distilbert-base-uncased` in the original. By default, no processor of the aligner is saved.

    Returns:
        The saved [`SmolVLM`], in evaluation mode and with a frozen vision tower.

    Raises:
        FileNotFoundError: If a file of the checkpoint does not exist.
        FileExistsError: If `destination` is a file or a folder that is not empty.
        OSError: If a model or tokenizer cannot be found.
        ImportError: If there is a `lora_adapter`, but peft is not installed.
        ValueError: If a file is truncated, damaged or another kind of checkpoint, the adapter was trained on another
            base model, or the image model or a tokenizer does not match the checkpoint.

    References:
        vlm-training (see `docs/papers.md`).

    Example:
        >>> model = convert_qformer_vlm(
        ...     "checkpoint",
        ...     "smolvlm",
        ...     base_model="HuggingFaceTB/SmolLM-135M-Instruct",
        ...     vision_model="google/vit-base-patch16-224",
        ... )  # doctest: +SKIP
    """
    destination, original = check_destination(destination), _read_checkpoint(Path(source))
    aligner = _build_aligner(original, vision_model)
    language_model = _load_language_model(original.folder / "lora_adapter", base_model)
    tokenizer = _load_tokenizer(base_model)
    image_processor = ViTImageProcessor() if vision_model is None else AutoImageProcessor.from_pretrained(vision_model)
    processor = aligner_processor = None
    if tokenizer is not None:
        processor = _build_processor(image_processor, tokenizer, aligner.config.num_query_tokens)
    if text_tokenizer is not None:
        aligner_processor = _build_aligner_processor(image_processor, text_tokenizer, aligner)
    model = _build_smolvlm(original, aligner=aligner, language_model=language_model, processor=processor)
    _save(destination, model=model, processor=processor, source=original.folder)
    _save(destination / _ALIGNER, model=aligner, processor=aligner_processor, source=original.folder)
    return model


def _read_checkpoint(source: Path) -> _Original:
    """Load and check the Q-Former and the two layers after it."""
    config_file = source / "qformer/config.json"
    config = read_json_file(config_file, _EXPECTED)
    text = config.get("bert_config")
    if not all(isinstance(config.get(name), int) for name in _NUMBERS) or not isinstance(text, dict):
        raise ValueError(
            f"{config_file} must contain the integers {', '.join(_NUMBERS)} and the dictionary bert_config. "
            f"Pass {_EXPECTED}."
        )
    if config["cross_every"] not in (1, 2):
        raise ValueError(
            f"`cross_every` in {config_file} must be 1 or 2, but got {config['cross_every']}. With other values, the "
            "original has cross-attention in other layers than vlmkit, so the checkpoint cannot be converted."
        )
    states = []
    for file in (source / "qformer/pytorch_model.bin", source / "adapter.pt"):
        state = read_torch_file(file, _EXPECTED)
        if not is_state_dict(state):
            raise ValueError(f"{file} must contain a dictionary of tensors. Pass {_EXPECTED}.")
        states.append(state)
    qformer, adapter = states
    names = set(_ADAPTER_NAMES.values())
    check_weight_names(
        source / "adapter.pt",
        kind="the two layers after a Q-Former",
        missing=names - adapter.keys(),
        unexpected=adapter.keys() - names,
        expected=_EXPECTED,
    )
    return _Original(source, config, qformer, adapter)


def _build_aligner(original: _Original, vision_model: str | os.PathLike | None) -> QFormerAligner:
    """Build the aligner from the Q-Former and the image model, if there is one."""
    numbers, text = original.config, original.config["bert_config"]
    text_config = DistilBertConfig(**{name: text[name] for name in _TEXT_FIELDS if name in text})
    width = text_config.dim
    config = QFormerAlignerConfig(
        vision_config=(
            PrecomputedVisionConfig(hidden_size=width)
            if vision_model is None
            else load_backbone_config(vision_model, get_vision_config)
        ),
        text_config=text_config,
        num_query_tokens=numbers["n_queries"],
        num_cross_attention_heads=numbers["num_heads"],
        cross_attention_frequency=numbers["cross_every"],
        original_causal_mask=True,
    )
    aligner = QFormerAligner(config).eval()
    if aligner.vision_tower.hidden_size != width:
        raise ValueError(
            f"`vision_model` must have features of the width {width} for the Q-Former in {original.folder}, but the "
            f"width of {vision_model} is {aligner.vision_tower.hidden_size}. Pass the image model that the Q-Former "
            "was trained with."
        )
    if vision_model is not None:
        aligner.vision_tower.set_backbone(VisionTower.load_backbone(vision_model, aligner.config.vision_config))
    weights = _renamed_qformer(original, aligner)
    aligner.load_state_dict({**aligner.state_dict(), **weights})
    return aligner


def _renamed_qformer(original: _Original, aligner: QFormerAligner) -> dict[str, Tensor]:
    """Check the names and sizes of the Q-Former's weights, and rename them to the names of the aligner."""
    state = {name: value for name, value in aligner.state_dict().items() if not name.startswith("vision_tower.")}
    origins = original_names(state, modules=_original_modules(len(aligner.qformer.layers)), packed=_PACKED)
    needed, found = {name for name, _ in origins.values()}, original.qformer.keys()
    file = original.folder / "qformer/pytorch_model.bin"
    check_weight_names(
        file,
        kind="the Q-Former of qformer/config.json",
        missing=needed - found,
        unexpected=found - needed,
        expected=_EXPECTED,
    )
    return renamed_weights(file, weights=original.qformer, model=state, origins=origins, advice=_SIZE_ADVICE)


def _original_modules(num_layers: int) -> dict[str, str]:
    """Map prefixes of the weight names of the aligner to prefixes of the original."""
    modules = {
        "qformer.query_tokens": "query_embeddings",
        "text_embeddings.": "embeddings.",
        "text_embeddings.norm.": "embeddings.LayerNorm.",
    }
    for layer in range(num_layers):
        ours, text, cross = f"qformer.layers.{layer}", f"encoder_layers.{layer}", f"cross_blocks.{layer}"
        for letter in "qkv":
            modules[f"{ours}.self_attention.attention.{letter}_proj."] = f"{text}.attention.{letter}_lin."
        modules |= {
            f"{ours}.self_attention.attention.out_proj.": f"{text}.attention.out_lin.",
            f"{ours}.self_attention.norm.": f"{text}.sa_layer_norm.",
            f"{ours}.feed_forward.mlp.fc1.": f"{text}.ffn.lin1.",
            f"{ours}.feed_forward.mlp.fc2.": f"{text}.ffn.lin2.",
            f"{ours}.feed_forward.norm.": f"{text}.output_layer_norm.",
            f"{ours}.image_attention.cross_attention.attention.": f"{cross}.cross_attn.",
            f"{ours}.image_attention.cross_attention.norm.": f"{cross}.layernorm.",
            f"{ours}.image_attention.feed_forward.mlp.fc1.": f"{cross}.ffn.0.",
            f"{ours}.image_attention.feed_forward.mlp.fc2.": f"{cross}.ffn.2.",
            f"{ours}.image_attention.feed_forward.norm.": f"{cross}.ln2.",
        }
    return modules


def _load_language_model(adapter: Path, base_model: str | os.PathLike) -> PreTrainedModel:
    """Load the base model, and merge the adapter if there is one."""
    if not adapter.exists():
        return AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    trained_on = read_json_file(adapter / "adapter_config.json", _EXPECTED).get("base_model_name_or_path")
    if trained_on and not os.path.isdir(base_model) and Path(trained_on).name != Path(base_model).name:
        raise ValueError(
            f"`base_model` must be {trained_on}, on which the adapter in {adapter} was trained, but got {base_model}. "
            "Pass that model, or a folder with a copy of it."
        )
    names = read_safetensors_file(adapter / "adapter_model.safetensors", _EXPECTED).keys()
    unexpected = [name for name in names if ".lora_" not in name]
    check_weight_names(adapter, kind="a LoRA adapter", missing=[], unexpected=unexpected, expected=_EXPECTED)
    try:
        from vlmkit.training.adapters import load_lora
    except ImportError as error:
        raise ImportError(
            'Merging a LoRA adapter requires peft. Install it with `pip install "vlmkit[train]"`.'
        ) from error
    language_model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    return load_lora(language_model, adapter).merge_and_unload()


def _load_tokenizer(base_model: str | os.PathLike) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of the base model, or return `None` for a folder without a tokenizer."""
    folder = Path(base_model)
    if folder.is_dir() and not any((folder / f"{name}.json").exists() for name in ("tokenizer", "tokenizer_config")):
        return None
    return AutoTokenizer.from_pretrained(base_model)


def _build_processor(
    image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase, num_image_tokens: int
) -> VlmkitSmolVLMProcessor:
    """Build the processor, with the chat template of the original if the tokenizer supports ChatML."""
    template = IMAGE_BEFORE_ANSWER if supports_chatml(tokenizer) else None
    return VlmkitSmolVLMProcessor(image_processor, tokenizer, num_image_tokens, chat_template=template)


def _build_aligner_processor(
    image_processor: BaseImageProcessor, text_tokenizer: str | os.PathLike, aligner: QFormerAligner
) -> QFormerAlignerProcessor:
    """Build the processor of the aligner, and check the vocabulary size of its tokenizer."""
    tokenizer, num_rows = AutoTokenizer.from_pretrained(text_tokenizer), aligner.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_rows:
        raise ValueError(
            f"`text_tokenizer` must have at most {num_rows} tokens for the Q-Former, but {text_tokenizer} has "
            f"{len(tokenizer)}. Pass the tokenizer that the Q-Former was trained with."
        )
    return QFormerAlignerProcessor(image_processor, tokenizer)


def _build_smolvlm(
    original: _Original,
    *,
    aligner: QFormerAligner,
    language_model: PreTrainedModel,
    processor: VlmkitSmolVLMProcessor | None,
) -> SmolVLM:
    """Build the model from the image model, the Q-Former, the two layers after it and the language model."""
    num_rows = language_model.get_input_embeddings().num_embeddings
    image_token_id = num_rows if processor is None else processor.image_token_id
    if image_token_id >= num_rows:
        language_model.resize_token_embeddings(image_token_id + 1)
    text_config = copy.deepcopy(language_model.config)
    text_config._name_or_path = ""  # the adapter has changed the weights
    aligner_config = copy.deepcopy(aligner.config)
    config = VlmkitSmolVLMConfig(
        vision_config=aligner_config.vision_config,
        qformer_config=aligner_config.text_config,
        text_config=text_config,
        image_token_id=image_token_id,
        num_query_tokens=aligner_config.num_query_tokens,
        num_cross_attention_heads=aligner_config.num_cross_attention_heads,
        cross_attention_frequency=aligner_config.cross_attention_frequency,
    )
    model = SmolVLM(config).eval()
    connector = model.model.connector
    layers = {name: value for name, value in connector.state_dict().items() if name.startswith("fc")}
    origins: dict[str, tuple[str, int | None]] = {name: (_ADAPTER_NAMES[name], None) for name in layers}
    advice = "Pass the base_model that the checkpoint was trained with."
    file = original.folder / "adapter.pt"
    adapter = renamed_weights(file, weights=original.adapter, model=layers, origins=origins, advice=advice)
    connector.load_state_dict({**connector.state_dict(), **adapter})
    connector.qformer.load_state_dict(aligner.qformer.state_dict())
    model.model.language_model.load_state_dict(language_model.get_decoder().state_dict())
    model.lm_head.load_state_dict(language_model.get_output_embeddings().state_dict())
    model.model.vision_tower.set_backbone(aligner.vision_tower.backbone)
    base = language_model.generation_config
    model.generation_config = GenerationConfig(
        **{name: getattr(base, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        suppress_tokens=[image_token_id],  # a generated placeholder would lack an image
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        repetition_penalty=1.2,
        max_new_tokens=100,
    )
    return model


def _save(folder: Path, *, model: VlmkitModel, processor: VlmkitProcessor | None, source: Path) -> None:
    """Save a model, and its processor if there is one."""
    model.describe(data=_CARD_DATA.format(folder=source.name))
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
