"""The checkpoints of MultiModel."""

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
_WANTED = "a checkpoint.pth, or a folder with encoder, decoder and gpt_decoder.safetensors"
_SIZES = "give vision_config and text_config of the backbones that it was trained with"
_TOKENIZER = "EleutherAI/gpt-neo-125m"  # all models of this family have the same
_START, _END = "<START>", "<END>"
# What the original saves but does not use: CLIP's text side and a projection of its own; and what older versions of
# transformers saved of what they compute.
_UNUSED = re.compile(
    r"clip\.(text_model\..+|text_projection\..+|visual_projection\..+|logit_scale)|query_proj\..+"
    r"|.+\.position_ids|.+\.attn\.attention\.(bias|masked_bias)"
)
_PACKED = re.compile(r"((?:self|cross)_attention_layers\.\d+|decoder_cross_attn)\.([qkv])_proj\.(weight|bias)")
_SUBLAYERS = ("self_attention", "self_feed_forward", "cross_attention", "cross_feed_forward")
_CARD_DATA = (
    "Converted from `{file}` of the original code, which does not record it; its training script uses the first "
    "captions of 64,000 photographs of COCO's train2017."
)


def convert_multimodel(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    vision_config: PreTrainedConfig | str | os.PathLike | None = None,
    text_config: PreTrainedConfig | str | os.PathLike | None = None,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike | None = None,
) -> QFormerCaptioner:
    """Turn a trained captioner into a folder with model and processor.

    Layers and queries of the Q-Former and the vocabulary have the sizes that they have in the checkpoint. It does not
    tell how many heads there are: the Q-Former has 8, as in the original, and the backbones those of their
    configurations. Weights become float32. Images are squashed to a square (bilinear) and normalised as CLIP's.
    Captions are sampled as the original's were, unless `generate` is told otherwise.

    Args:
        source: `checkpoint.pth` of the original code, or a folder in the layout of its hub repository
            (`encoder.safetensors`, `decoder.safetensors`, `gpt_decoder.safetensors`). Read without unpickling anything
            but tensors and plain values.
        destination: folder to write; new or empty.
        vision_config: configuration of the image backbone, or a folder or hub id that holds it, of which no weight is
            read. Default: the original's CLIP ViT-B/32.
        text_config: the same of the language model. Default: the original's GPT-Neo of 24 layers and width 1024.
        tokenizer: with which it was trained, or a folder or hub id that holds it. `<START>` and `<END>` are added if it
            lacks them, in this order. It pads with its end-of-text token if it has no other. Default: GPT-Neo's, from
            the hub (`EleutherAI/gpt-neo-125m`).

    Returns:
        The model as it was saved, in evaluation mode, with the image backbone frozen.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: the destination is a file, or a folder that holds something.
        OSError: a configuration or the tokenizer cannot be found.
        ValueError: a file is truncated, damaged or no such checkpoint; or configurations or tokenizer have other sizes.

    References:
        MultiModel (see `docs/papers.md`).

    Example:
        >>> model = convert_multimodel("checkpoint.pth", "captioner")  # doctest: +SKIP
    """
    source, destination = Path(source), check_destination(destination)
    weights = _read_weights(source)
    config = _configuration(weights, vision_config=vision_config, text_config=text_config)
    model = QFormerCaptioner(config).eval()
    model.load_state_dict(_translate(source, weights, model))
    tokenizer = _tokenizer(_TOKENIZER if tokenizer is None else tokenizer, model.get_input_embeddings().num_embeddings)
    _set_tokens(model, tokenizer)
    model.describe(data=_CARD_DATA.format(file=source.name))
    model.save_pretrained(destination)
    QFormerCaptionerProcessor(_image_processor(model.config.vision_config), tokenizer).save_pretrained(destination)
    return model


def _read_weights(source: Path) -> dict[str, Tensor]:
    """All weights under one name each: the original saves its image encoder twice, and its language model, too."""
    if source.is_dir():
        parts = {part: read_safetensors_file(source / f"{part}.safetensors", _WANTED) for part in _PARTS}
    else:
        checkpoint = read_torch_file(source, _WANTED)
        keys = [f"{part}_state_dict" for part in _PARTS]
        if not isinstance(checkpoint, dict) or not all(is_state_dict(checkpoint.get(key)) for key in keys):
            raise ValueError(f"{source} does not hold the dictionaries of tensors {keys}; give {_WANTED}")
        parts = {part: checkpoint[key] for part, key in zip(_PARTS, keys, strict=True)}
    weights: dict[str, Tensor] = {}
    for part, tensors in parts.items():
        for own_name, value in tensors.items():
            name = f"gpt_decoder.{own_name}" if part == "gpt_decoder" else own_name
            name = re.sub(r"^vision\.", "clip.vision_model.", name)
            if not torch.equal(weights.setdefault(name, value), value):
                raise ValueError(f"{source} holds two different {name}; give one as the original code saves it")
    return weights


def _configuration(
    weights: dict[str, Tensor],
    *,
    vision_config: PreTrainedConfig | str | os.PathLike | None,
    text_config: PreTrainedConfig | str | os.PathLike | None,
) -> QFormerCaptionerConfig:
    """The sizes of a checkpoint. If a weight that tells one is missing, this is found with all that is missing."""
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
        backbone._name_or_path = ""  # the weights are not from there
    return config


def _num_rows(weights: dict[str, Tensor], name: str) -> int:
    return math.prod(weights[name].shape[:-1]) if name in weights else 1


def _translate(source: Path, weights: dict[str, Tensor], model: QFormerCaptioner) -> dict[str, Tensor]:
    """The checkpoint under the model's names, after a check of names and sizes."""
    state = model.state_dict()
    modules = _original_modules(model.config.num_qformer_layers)
    origins = original_names(state, modules=modules, packed=_PACKED)
    needed = {name for name, _ in origins.values()}
    unexpected = {name for name in weights.keys() - needed if not _UNUSED.fullmatch(name)}
    check_weight_names(
        source,
        kind="checkpoint of this captioner",
        missing=needed - weights.keys(),
        unexpected=unexpected,
        advice=_WANTED,
    )
    return renamed_weights(source, weights=weights, model=state, origins=origins, advice=_SIZES)


def _original_modules(num_layers: int) -> dict[str, str]:
    """Beginnings of the model's names, and what the original has in their place."""
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


def _image_processor(vision_config: Any) -> CLIPImageProcessor:
    """The original's: squash, then normalise."""
    side = vision_config.image_size
    return CLIPImageProcessor(
        size={"height": side, "width": side}, resample=PILImageResampling.BILINEAR, do_center_crop=False
    )


def _tokenizer(given: PreTrainedTokenizerBase | str | os.PathLike, num_embeddings: int) -> PreTrainedTokenizerBase:
    """The tokenizer with the original's special tokens, after a check of its size."""
    tokenizer = AutoTokenizer.from_pretrained(given) if isinstance(given, (str, os.PathLike)) else copy.deepcopy(given)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.add_special_tokens({"bos_token": _START, "eos_token": _END})
    if len(tokenizer) != num_embeddings:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, {_START} and {_END} among them, but the checkpoint "
            f"{num_embeddings}; give the tokenizer that it was trained with"
        )
    return tokenizer


def _set_tokens(model: QFormerCaptioner, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tell the model its special tokens, and how the original samples captions."""
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
        min_length=5,  # with the start token
        max_new_tokens=30,
    )
