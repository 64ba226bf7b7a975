"""Converter for checkpoints of MultiModel."""

import copy
import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPImageProcessor,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.image_utils import PILImageResampling

from vlmkit.conversion.files import (
    check_destination,
    check_weight_names,
    is_state_dict,
    read_safetensors_file,
    read_torch_file,
)
from vlmkit.conversion.renaming import original_names, renamed_weights
from vlmkit.models.qformer_captioner import QFormerCaptioner, QFormerCaptionerConfig, QFormerCaptionerProcessor
from vlmkit.modules.towers import get_text_config, get_vision_config

_PARTS = ("encoder", "decoder", "gpt_decoder")
_EXPECTED = "a checkpoint.pth, or a folder with encoder.safetensors, decoder.safetensors and gpt_decoder.safetensors"
_SIZE_ADVICE = "Pass the vision_config and text_config of the backbones that the checkpoint was trained with."
_TOKENIZER = "EleutherAI/gpt-neo-125m"  # the tokenizer of all GPT-Neo models
_START, _END = "<START>", "<END>"
# Weights that the original saves but does not use (the text tower and the projections of CLIP, `query_proj`), and
# buffers that older versions of transformers saved.
_UNUSED = re.compile(
    r"clip\.(text_model\..+|text_projection\..+|visual_projection\..+|logit_scale)|query_proj\..+"
    r"|.+\.position_ids|.+\.attn\.attention\.(bias|masked_bias)"
)
_PACKED = re.compile(r"((?:self|cross)_attention_layers\.\d+|decoder_cross_attn)\.([qkv])_proj\.(weight|bias)")
_SUBLAYERS = ("self_attention", "self_feed_forward", "cross_attention", "cross_feed_forward")
_CARD_DATA = (
    "Converted from `{file}` of the original code, which does not record its training data. The original training "
    "script uses the first captions of 64,000 photographs of COCO train2017."
)


def convert_multimodel(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    vision_config: PreTrainedConfig | str | os.PathLike | None = None,
    text_config: PreTrainedConfig | str | os.PathLike | None = None,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike | None = None,
) -> QFormerCaptioner:
    """Convert a trained captioner, and save the model and its processor.

    - The number of layers and queries of the Q-Former and the size of the vocabulary are taken from the checkpoint.
    - The checkpoint does not contain the numbers of heads. The Q-Former gets 8 heads as in the original, and the
      backbones get the numbers in their configurations.
    - Weights are converted to float32.
    - The processor resizes images to a square (bilinear, aspect ratio not kept) and normalizes them as for CLIP.
    - `generate` samples captions with the settings of the original by default.

    Args:
        source: Path of `checkpoint.pth` of the original code, or of a folder with `encoder.safetensors`,
            `decoder.safetensors` and `gpt_decoder.safetensors`, as in its Hub repository. Only tensors and plain values
            are unpickled.
        destination: Output folder, which must be new or empty.
        vision_config: Configuration of the image backbone, or a folder or Hub id to load it from, without weights.
            Defaults to the ViT-B/32 of CLIP, as in the original.
        text_config: Configuration of the language model, or a folder or Hub id to load it from, without weights.
            Defaults to a GPT-Neo with 24 layers and width 1024, as in the original.
        tokenizer: Tokenizer that the checkpoint was trained with, or a folder or Hub id to load it from. Missing
            `<START>` and `<END>` tokens are added in this order. Without a padding token, it pads with its end-of-text
            token. Defaults to the tokenizer of GPT-Neo (`EleutherAI/gpt-neo-125m`).

    Returns:
        The saved model, in evaluation mode and with a frozen image backbone.

    Raises:
        FileNotFoundError: If `source` does not exist or lacks a file.
        FileExistsError: If `destination` is a file or a folder that is not empty.
        OSError: If a configuration or the tokenizer cannot be found.
        ValueError: If a file is truncated, damaged or another kind of checkpoint, or its sizes do not match the
            configurations or the tokenizer.

    References:
        MultiModel (see `docs/papers.md`).

    Example:
        >>> model = convert_multimodel("checkpoint.pth", "captioner")  # doctest: +SKIP
    """
    source, destination = Path(source), check_destination(destination)
    weights = _read_weights(source)
    config = _build_config(weights, vision_config=vision_config, text_config=text_config)
    model = QFormerCaptioner(config).eval()
    model.load_state_dict(_convert_weights(source, weights, model))
    num_embeddings = model.get_input_embeddings().num_embeddings
    tokenizer = _prepare_tokenizer(_TOKENIZER if tokenizer is None else tokenizer, num_embeddings)
    _set_generation_config(model, tokenizer)
    model.describe(data=_CARD_DATA.format(file=source.name))
    model.save_pretrained(destination)
    image_processor = _build_image_processor(model.config.vision_config)
    QFormerCaptionerProcessor(image_processor, tokenizer).save_pretrained(destination)
    return model


def _read_weights(source: Path) -> dict[str, Tensor]:
    """Load the weights without duplicates. The original saves its image encoder and its language model twice."""
    if source.is_dir():
        parts = {part: read_safetensors_file(source / f"{part}.safetensors", _EXPECTED) for part in _PARTS}
    else:
        checkpoint = read_torch_file(source, _EXPECTED)
        keys = [f"{part}_state_dict" for part in _PARTS]
        if not isinstance(checkpoint, dict) or not all(is_state_dict(checkpoint.get(key)) for key in keys):
            raise ValueError(f"{source} must contain the dictionaries of tensors {keys}. Pass {_EXPECTED}.")
        parts = {part: checkpoint[key] for part, key in zip(_PARTS, keys, strict=True)}
    weights: dict[str, Tensor] = {}
    for part, tensors in parts.items():
        for part_name, value in tensors.items():
            name = f"gpt_decoder.{part_name}" if part == "gpt_decoder" else part_name
            name = re.sub(r"^vision\.", "clip.vision_model.", name)
            if not torch.equal(weights.setdefault(name, value), value):
                raise ValueError(
                    f"{source} must contain two equal copies of {name}, but they differ. Pass a checkpoint that the "
                    "original code has saved."
                )
    return weights


def _build_config(
    weights: dict[str, Tensor],
    *,
    vision_config: PreTrainedConfig | str | os.PathLike | None,
    text_config: PreTrainedConfig | str | os.PathLike | None,
) -> QFormerCaptionerConfig:
    """Build the configuration with the sizes of the checkpoint. Missing weights are reported later, all at once."""
    parts: list[PreTrainedConfig | None] = []
    for part, side in ((vision_config, get_vision_config), (text_config, get_text_config)):
        if isinstance(part, (str, os.PathLike)):
            part = side(AutoConfig.from_pretrained(part))
        parts.append(copy.deepcopy(part))
    layers = {name.split(".")[1] for name in weights if name.startswith("self_attention_layers.")}
    config = QFormerCaptionerConfig(
        vision_config=parts[0],
        text_config=parts[1],
        num_query_tokens=_num_rows(weights, "query_tokens"),
        num_qformer_layers=len(layers) or 1,
    )
    backbones: tuple[Any, Any] = (config.vision_config, config.text_config)
    backbones[1].vocab_size = _num_rows(weights, "gpt_decoder.transformer.wte.weight")
    for backbone in backbones:
        backbone._name_or_path = ""  # the weights come from the checkpoint
    return config


def _num_rows(weights: dict[str, Tensor], name: str) -> int:
    return math.prod(weights[name].shape[:-1]) if name in weights else 1


def _convert_weights(source: Path, weights: dict[str, Tensor], model: QFormerCaptioner) -> dict[str, Tensor]:
    """Check the names and sizes of the weights, and rename them to the names of the model."""
    state = model.state_dict()
    modules = _original_modules(model.config.num_qformer_layers)
    origins = original_names(state, modules=modules, packed=_PACKED)
    needed = {name for name, _ in origins.values()}
    unexpected = {name for name in weights.keys() - needed if not _UNUSED.fullmatch(name)}
    check_weight_names(
        source,
        kind="a captioner with these backbones",
        missing=needed - weights.keys(),
        unexpected=unexpected,
        expected=_EXPECTED,
    )
    return renamed_weights(source, weights=weights, model=state, origins=origins, advice=_SIZE_ADVICE)


def _original_modules(num_layers: int) -> dict[str, str]:
    """Map prefixes of the weight names of the model to prefixes of the original."""
    modules = {
        "model.vision_tower.backbone.": "clip.vision_model.",
        "model.connector.vision_projection.layers.0.": "proj.",
        "model.connector.": "",
        "model.connector.global_token": "img_context",
        "model.cross_attention.scale": "cross_scale",
        "model.cross_attention.norm.": "decoder_cross_attn_norm.",
        "model.cross_attention.attention.": "decoder_cross_attn.",
        "model.cross_attention.feed_forward.norm.": "decoder_cross_attn_norm2.",
        "model.cross_attention.feed_forward.mlp.fc1.": "decoder_cross_attn_ffn.0.",
        "model.cross_attention.feed_forward.mlp.fc2.": "decoder_cross_attn_ffn.3.",
        "model.language_model.": "gpt_decoder.transformer.",
        "lm_head.": "gpt_decoder.lm_head.",
    }
    for layer in range(num_layers):
        ours = f"model.connector.layers.{layer}"
        for position, sublayer in enumerate(_SUBLAYERS):
            modules[f"{ours}.{sublayer}.norm."] = f"layer_norms.{4 * layer + position}."
        for position, kind in enumerate(("self", "cross")):
            modules[f"{ours}.{kind}_attention.attention."] = f"{kind}_attention_layers.{layer}."
            feed_forward = f"ffn_layers.{2 * layer + position}"
            modules[f"{ours}.{kind}_feed_forward.mlp.fc1."] = f"{feed_forward}.0."
            modules[f"{ours}.{kind}_feed_forward.mlp.fc2."] = f"{feed_forward}.3."
    return modules


def _build_image_processor(vision_config: Any) -> CLIPImageProcessor:
    """Build the image processor, which resizes to a square and normalizes as the original does."""
    side = vision_config.image_size
    return CLIPImageProcessor(
        size={"height": side, "width": side}, resample=PILImageResampling.BILINEAR, do_center_crop=False
    )


def _prepare_tokenizer(
    source: PreTrainedTokenizerBase | str | os.PathLike, num_embeddings: int
) -> PreTrainedTokenizerBase:
    """Load or copy the tokenizer, add the special tokens of the original, and check the size of the vocabulary."""
    if isinstance(source, (str, os.PathLike)):
        tokenizer = AutoTokenizer.from_pretrained(source)
    else:
        tokenizer = copy.deepcopy(source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.add_special_tokens({"bos_token": _START, "eos_token": _END})
    if len(tokenizer) != num_embeddings:
        raise ValueError(
            f"`tokenizer` must have {num_embeddings} tokens, including {_START} and {_END}, but got {len(tokenizer)}. "
            "Pass the tokenizer that the checkpoint was trained with."
        )
    return tokenizer


def _set_generation_config(model: QFormerCaptioner, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the special tokens of the model, and the sampling settings of the original."""
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    for name, token_id in tokens.items():
        setattr(model.config.text_config, name, token_id)
    model.generation_config = GenerationConfig(
        **tokens,
        do_sample=True,
        temperature=0.6,
        top_k=40,
        top_p=0.9,
        repetition_penalty=1.8,
        min_length=5,  # including the start token
        max_new_tokens=30,
    )
