"""How each backbone of a vision-language model trains: not at all, by LoRA or DoRA (peft), or whole."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper, load_peft_weights
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vlmkit.modules.vision_tower import VisionTower
from vlmkit.validation import check_at_least, check_choice

Mode = Literal["frozen", "lora", "dora", "full"]
MODES = ("frozen", "lora", "dora", "full")
_VISION, _TEXT, _HEAD = "model.vision_tower", "model.language_model", "lm_head"
# They make the pooled vector (of SigLIP, in transformers and in timm), which goes into no language model.
_POOLING_HEADS = ("attn_pool", "head", "pooler")


def adapt_backbones(
    model: PreTrainedModel,
    *,
    vision: Mode = "frozen",
    text: Mode = "lora",
    rank: int = 64,
    alpha: int = 128,
    dropout: float = 0.1,
) -> PreTrainedModel | PeftModel:
    """Choose how the vision tower and the language model train; what lies between them trains whole.

    - `"frozen"`: it stays as it is. The vision tower also stays in evaluation mode, while the language model keeps
      the dropout that it may have.
    - `"lora"`, `"dora"`: peft adapts all linear layers, except the language model's head and layers that only pool an
      image to one vector. An adapted vision tower stays in evaluation mode, as the statistics of a batch norm would
      change and not be saved; so `dropout` acts in the language model only, and gradient checkpointing, too.
    - `"full"`: all parameters train.

    Everything else is decided by the call alone, whatever was frozen before; `model.config.freeze_vision` follows.
    In the study behind Idefics2, training diverged when both backbones of an autoregressive model trained whole, and
    LoRA made it stable. Its instruction tuning took DoRA.

    Where one is adapted, `save_pretrained` of the result writes the adapter with all that trains whole, such as the
    connector; [`load_lora`] puts it back onto the same base, and `merge_and_unload()` makes an ordinary model of it,
    which is as fast as the base. peft keeps a second copy, as it was, of what trains whole. Where none is adapted,
    there is no peft: the model itself is returned, and `from_pretrained` makes all of its language model trainable.

    Args:
        model: A model whose headless model has `vision_tower`, `language_model`, `connector` and maybe
            `cross_attention`. It is changed in place. Save it before, so that the adapter finds its base again.
        vision: how the vision tower trains.
        text: how the language model trains.
        rank: of the updates.
        alpha: the updates are scaled by alpha / rank.
        dropout: of what the updates see, in training.

    Raises:
        ValueError: an unknown mode, LoRA for one and DoRA for the other, a rank below 1, a model without a connector,
            nothing to adapt, or a layer that DoRA cannot adapt.

    References:
        Hu et al., "LoRA" (arXiv:2106.09685); Liu et al., "DoRA" (arXiv:2402.09353); Laurençon et al., "What matters
        when building vision-language models?" (arXiv:2405.02246, sections 3.2 and 4.2). The defaults are vlm-training's
        (see `docs/papers.md`).

    Example:
        >>> from transformers import DistilBertConfig, LlamaConfig, ViTConfig
        >>> from vlmkit import SmolVLM, VlmkitSmolVLMConfig
        >>> config = VlmkitSmolVLMConfig(
        ...     vision_config=ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32),
        ...     qformer_config=DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32),
        ...     text_config=LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50),
        ...     image_token_id=49,
        ...     num_query_tokens=2,
        ... )
        >>> model = adapt_backbones(SmolVLM(config), vision="full", text="frozen")
        >>> sorted({name.split(".")[1] for name, weight in model.named_parameters() if weight.requires_grad})
        ['connector', 'vision_tower']
    """
    modes = {_VISION: vision, _TEXT: text}
    _check_options(model, vision, text, rank)
    layers = {part: _linear_layers(model, part) for part, mode in modes.items() if mode in ("lora", "dora")}
    if "dora" in modes.values():
        _check_dora(layers)
    whole = [*_names_between_backbones(model), *(part for part, mode in modes.items() if mode == "full")]
    if text == "full":
        whole.append(_HEAD)
    _set_vision_frozen(model, frozen=vision != "full")
    if not layers:
        model.requires_grad_(False)
        for name in whole:
            model.get_submodule(name).requires_grad_(True)
        return model
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_dora="dora" in modes.values(),
        target_modules="|".join(_build_pattern(part, names) for part, names in layers.items()),
        exclude_modules=_find_namesakes(model, layers) or None,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for names in layers.values() for layer in names.values()),
        modules_to_save=whole,
    )
    with _transposed_layers_allowed():
        adapted = get_peft_model(model, config)
    _tie_trained_head(adapted)
    return adapted


def load_lora(model: PreTrainedModel, adapter: str | os.PathLike, *, is_trainable: bool = False) -> PeftModel:
    """Put an adapter that was saved apart, with all that was trained whole, onto the base that it was trained on.

    Args:
        model: the base.
        adapter: folder or hub id that `save_pretrained` of a model of [`adapt_backbones`] has written.
        is_trainable: whether training goes on.

    Raises:
        OSError: there is no adapter.
        ValueError: it belongs to another base.
    """
    folder = os.fspath(adapter)
    try:
        names = load_peft_weights(folder, device="cpu").keys()
    except ValueError as error:
        raise OSError(
            f"there is no adapter in {folder}; give what save_pretrained of an adapted model wrote"
        ) from error
    try:
        with _transposed_layers_allowed():
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=is_trainable)
        own_names = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
        if own_names != names:  # peft would leave out what does not fit
            raise ValueError("its layers have other names, or are more or fewer")
    except (RuntimeError, ValueError) as error:
        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        raise ValueError(
            f"the adapter in {folder} was trained on {base}, and does not fit {model.name_or_path or 'this model'} "
            f"({error}); load it onto its own base"
        ) from error
    _tie_trained_head(adapted)
    [config] = adapted.peft_config.values()
    _set_vision_frozen(adapted, frozen=_VISION not in (config.modules_to_save or ()))
    return adapted


def _check_options(model: PreTrainedModel, vision: Mode, text: Mode, rank: int) -> None:
    check_choice("vision", vision, MODES)
    check_choice("text", text, MODES)
    if {vision, text} == {"lora", "dora"}:
        raise ValueError(
            f"vision is {vision!r} and text is {text!r}, but an adapter is of one kind; choose the same for both"
        )
    check_at_least("rank", rank)
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has an adapter already; merge or unload it first")
    if getattr(model.base_model, "connector", None) is None:
        raise ValueError(f"{type(model).__name__} has no connector between images and language model to train")


def _names_between_backbones(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules between the backbones: the connector and the cross-attention."""
    cross_attention = getattr(model.base_model, "cross_attention", None)
    return ["model.connector"] if cross_attention is None else ["model.connector", "model.cross_attention"]


def _tie_trained_head(model: PeftModel) -> None:
    """Tie the copies of head and token embeddings that peft trains, as the originals are tied."""
    base: Any = model.get_base_model()
    head, decoder = getattr(base, _HEAD, None), base.get_decoder()
    if isinstance(head, ModulesToSaveWrapper) and base.all_tied_weights_keys:
        for adapter, copy in head.modules_to_save.items():
            copy.weight = decoder.modules_to_save[adapter].get_input_embeddings().weight


def _linear_layers(model: PreTrainedModel, part: str) -> dict[str, nn.Module]:
    """The layers to adapt in a backbone, by name.

    Raises:
        ValueError: there are none.
    """
    backbone = model.get_submodule(part)
    layers = {
        f"{part}.{name}": layer
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear | Conv1D)
        and not (part == _VISION and set(name.split(".")) & set(_POOLING_HEADS))
    }
    if not layers:
        kind = type(getattr(backbone, "backbone", backbone)).__name__
        raise ValueError(f"{part} has no linear layer to adapt ({kind}); choose 'full' or 'frozen'")
    return layers


def _find_namesakes(model: PreTrainedModel, layers: dict[str, dict[str, nn.Module]]) -> list[str]:
    """Modules that the patterns would take, too, but that are not linear (a patch embedding's `proj`)."""
    found = []
    for part, own in layers.items():
        pattern = re.compile(_build_pattern(part, own))
        found += [name for name, _ in model.named_modules() if pattern.fullmatch(name) and name not in own]
    return found


def _build_pattern(part: str, layers: dict[str, nn.Module]) -> str:
    """A regular expression of the layers' names."""
    endings = "|".join(sorted({re.escape(name.rpartition(".")[2]) for name in layers}))
    if part == _TEXT:
        return rf"{re.escape(_TEXT)}\..*\.({endings})"
    return rf"{re.escape(_VISION)}\.backbone\.(?!(.*\.)?({'|'.join(_POOLING_HEADS)})\.)(.*\.)?({endings})"


def _check_dora(layers: dict[str, dict[str, nn.Module]]) -> None:
    """Check that DoRA can adapt and merge every layer. Quantized weights are checked by peft itself.

    Raises:
        ValueError: the weights of an output are all zero, or a layer does more than multiply by its weights.
    """
    for name, layer in (item for part in layers.values() for item in part.items()):
        weight = layer.get_parameter("weight")
        if not weight.is_floating_point() or weight.is_meta:
            continue
        reason = None
        if type(layer).forward not in (nn.Linear.forward, Conv1D.forward):
            reason = f"{type(layer).__name__} computes its outputs in a way of its own"
        elif not weight.any(dim=0 if isinstance(layer, Conv1D) else 1).all():
            reason = "it has an output whose weights are all zero, and DoRA divides by their norm"
        if reason:
            raise ValueError(f"DoRA does not support {name}: {reason}; choose 'lora', 'full' or 'frozen'")


def _set_vision_frozen(model: PreTrainedModel | PeftModel, frozen: bool) -> None:
    """Set whether the vision tower stays in evaluation mode, there and in the configuration that is saved."""
    model.config.freeze_vision = frozen
    for tower in model.modules():
        if isinstance(tower, VisionTower):  # twice, if peft trains a copy
            tower.frozen = frozen
            tower.train(model.training)


@contextmanager
def _transposed_layers_allowed() -> Iterator[None]:
    """Without the warnings that `nn.Linear` and GPT-2's transposed layers are in one adapter, which peft handles."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        yield
