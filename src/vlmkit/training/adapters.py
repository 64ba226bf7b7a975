"""Fine-tuning of the backbones of a vision-language model: frozen, with LoRA or DoRA (peft), or fully."""

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
# Modules of SigLIP in timm and transformers that pool image features. The language model uses the unpooled ones.
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
    """Freeze, adapt or fully train the vision tower and the language model of a vision-language model.

    The modules between them, which are the connector and the cross-attention, are always fully trained. The modes of a
    backbone are:

    - `"frozen"`: No parameter is trained. The vision tower stays in evaluation mode, but the language model keeps its
      dropout.
    - `"lora"`, `"dora"`: Adapters of peft are added to all linear layers, except for the language modeling head and
      layers that pool image features. The vision tower stays in evaluation mode, because changes of its batch
      normalization statistics would not be saved. `dropout` and gradient checkpointing are therefore only active in the
      language model.
    - `"full"`: All parameters are trained.

    LoRA replaces a weight `W (out, in)` by `W + alpha / rank * B A`, where only `A (rank, in)` and `B (out, rank)` are
    trained. DoRA also trains the norm of each row of the weight. In the study behind Idefics2, full training of both
    backbones of an autoregressive model diverged, and LoRA made training stable. Its instruction tuning used DoRA.

    The call sets `requires_grad` of all parameters and `model.config.freeze_vision`, regardless of earlier settings.

    - With an adapter, `save_pretrained` of the result saves the adapter and the fully trained modules. Add them to the
      same base model with [`load_lora`]. `merge_and_unload()` then returns a model without peft, which is as fast as
      the base model. In training, peft also keeps a copy of the original weights of fully trained modules.
    - Without an adapter, `save_pretrained` saves the whole model. `from_pretrained` makes its language model trainable
      again, even if it was frozen.

    Args:
        model: Model with a `vision_tower`, a `language_model`, a `connector` and optionally a `cross_attention` in
            `model.model`, such as [`SmolVLM`]. It is modified in place. Save the model before the call, because the
            adapter refers to the folder or Hub id of its base model.
        vision: Mode of the vision tower. Default: `"frozen"`.
        text: Mode of the language model, including its head. Default: `"lora"`.
        rank: Rank of the LoRA matrices. Default: 64.
        alpha: Scaling of the LoRA updates, which are multiplied by `alpha / rank`. Default: 128.
        dropout: Dropout probability of the inputs of the LoRA matrices, in training. Default: 0.1.

    Returns:
        A `peft.PeftModel` if a backbone is adapted, otherwise `model` itself.

    Raises:
        ValueError: If a mode is unknown, one backbone uses LoRA and the other one DoRA, `rank` is less than 1, `model`
            lacks a connector or already has an adapter, a backbone to adapt lacks linear layers, or DoRA does not
            support a layer.

    References:
        Hu et al., "LoRA" (arXiv:2106.09685); Liu et al., "DoRA" (arXiv:2402.09353); Laurençon et al., "What matters
        when building vision-language models?" (arXiv:2405.02246, sections 3.2 and 4.2). The default rank, alpha and
        dropout are taken from vlm-training (see `docs/papers.md`).

    Example:
        >>> from transformers import LlamaConfig, ViTConfig
        >>> from vlmkit import SmolVLM, VlmkitSmolVLMConfig
        >>> config = VlmkitSmolVLMConfig(
        ...     vision_config=ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32),
        ...     text_config=LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50),
        ...     image_token_id=49,
        ...     connector="mlp",
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
    fully_trained = [*_names_between_backbones(model), *(part for part, mode in modes.items() if mode == "full")]
    if text == "full":
        fully_trained.append(_HEAD)
    _set_vision_frozen(model, frozen=vision != "full")
    if not layers:
        model.requires_grad_(False)
        for name in fully_trained:
            model.get_submodule(name).requires_grad_(True)
        return model
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_dora="dora" in modes.values(),
        target_modules="|".join(_build_pattern(part, names) for part, names in layers.items()),
        exclude_modules=_find_excluded_modules(model, layers) or None,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for names in layers.values() for layer in names.values()),
        modules_to_save=fully_trained,
    )
    with _transposed_layers_allowed():
        adapted = get_peft_model(model, config)
    _tie_trained_head(adapted)
    return adapted


def load_lora(model: PreTrainedModel, adapter: str | os.PathLike, *, is_trainable: bool = False) -> PeftModel:
    """Add a saved adapter, and the fully trained modules that were saved with it, to its base model.

    Args:
        model: Base model that the adapter was trained on. It is modified in place.
        adapter: Folder or Hub id of the adapter, saved by `save_pretrained` of the result of [`adapt_backbones`].
        is_trainable: Keep the adapter and the fully trained modules trainable, to resume training. Default: `False`.

    Returns:
        The base model with the adapter, as a `peft.PeftModel`.

    Raises:
        OSError: If `adapter` does not contain an adapter.
        ValueError: If the adapter was trained on another base model.

    Example:
        >>> from vlmkit import SmolVLM
        >>> base = SmolVLM.from_pretrained("my-org/smolvlm")  # doctest: +SKIP
        >>> adapted = load_lora(base, "my-org/smolvlm-lora")  # doctest: +SKIP
        >>> model = adapted.merge_and_unload()  # doctest: +SKIP
    """
    folder = os.fspath(adapter)
    try:
        names = load_peft_weights(folder, device="cpu").keys()
    except ValueError as error:
        raise OSError(
            f"{folder} must contain an adapter of peft, but none was found. Pass a folder or Hub id that "
            "`save_pretrained` of an adapted model has written."
        ) from error
    try:
        with _transposed_layers_allowed():
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=is_trainable)
        model_names = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
        if model_names != names:  # peft ignores weights that do not match
            raise ValueError("their layers differ in number or name")
    except (RuntimeError, ValueError) as error:
        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        raise ValueError(
            f"The adapter in {folder} was trained on {base} and does not fit {model.name_or_path or 'this model'} "
            f"({error}). Add it to the base model that it was trained on."
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
            f"`vision` and `text` must use the same kind of adapter, but got {vision!r} and {text!r}. Choose 'lora' or "
            "'dora' for both."
        )
    check_at_least("rank", rank)
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError(
            f"`model` must not have an adapter, but this {type(model).__name__} has one. Merge or unload it first."
        )
    if getattr(model.base_model, "connector", None) is None:
        raise ValueError(
            f"`model` must have a connector between vision tower and language model, but got {type(model).__name__}. "
            "Use a model such as SmolVLM."
        )


def _names_between_backbones(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules between the backbones: the connector and the cross-attention."""
    cross_attention = getattr(model.base_model, "cross_attention", None)
    return ["model.connector"] if cross_attention is None else ["model.connector", "model.cross_attention"]


def _tie_trained_head(model: PeftModel) -> None:
    """Tie the trained copies of head and token embeddings if the original ones are tied."""
    base: Any = model.get_base_model()
    head, decoder = getattr(base, _HEAD, None), base.get_decoder()
    if isinstance(head, ModulesToSaveWrapper) and base.all_tied_weights_keys:
        for adapter, copy in head.modules_to_save.items():
            copy.weight = decoder.modules_to_save[adapter].get_input_embeddings().weight


def _linear_layers(model: PreTrainedModel, part: str) -> dict[str, nn.Module]:
    """Return the layers of a backbone to adapt, by name.

    Raises:
        ValueError: If the backbone does not have linear layers.
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
        raise ValueError(
            f"`{part}` must have linear layers for an adapter, but {kind} does not. Choose 'full' or 'frozen'."
        )
    return layers


def _find_excluded_modules(model: PreTrainedModel, layers: dict[str, dict[str, nn.Module]]) -> list[str]:
    """Return the names of other modules that the patterns match, such as the convolution of a patch embedding."""
    found = []
    for part, own in layers.items():
        pattern = re.compile(_build_pattern(part, own))
        found += [name for name, _ in model.named_modules() if pattern.fullmatch(name) and name not in own]
    return found


def _build_pattern(part: str, layers: dict[str, nn.Module]) -> str:
    """Return a regular expression that matches the names of the layers."""
    endings = "|".join(sorted({re.escape(name.rpartition(".")[2]) for name in layers}))
    if part == _TEXT:
        return rf"{re.escape(_TEXT)}\..*\.({endings})"
    return rf"{re.escape(_VISION)}\.backbone\.(?!(.*\.)?({'|'.join(_POOLING_HEADS)})\.)(.*\.)?({endings})"


def _check_dora(layers: dict[str, dict[str, nn.Module]]) -> None:
    """Check that DoRA can adapt and merge every layer. Quantized weights are checked by peft.

    Raises:
        ValueError: If all weights of an output are zero, or a layer overrides the forward pass of its class.
    """
    for name, layer in (item for part in layers.values() for item in part.items()):
        weight = layer.get_parameter("weight")
        if not weight.is_floating_point() or weight.is_meta:
            continue
        reason = None
        if type(layer).forward not in (nn.Linear.forward, Conv1D.forward):
            reason = f"{type(layer).__name__} overrides the forward pass of a linear layer"
        elif not weight.any(dim=0 if isinstance(layer, Conv1D) else 1).all():
            reason = "all weights of one of its outputs are zero, and DoRA divides by their norm"
        if reason:
            raise ValueError(
                f"DoRA does not support the layer {name}, because {reason}. Choose 'lora', 'full' or 'frozen'."
            )


def _set_vision_frozen(model: PreTrainedModel | PeftModel, frozen: bool) -> None:
    """Set whether the vision tower is frozen and stays in evaluation mode, also in the saved configuration."""
    model.config.freeze_vision = frozen
    for tower in model.modules():
        if isinstance(tower, VisionTower):  # two towers if peft trains a copy of it
            tower.frozen = frozen
            tower.train(model.training)


@contextmanager
def _transposed_layers_allowed() -> Iterator[None]:
    """Suppress the warnings of peft about adapters with both `nn.Linear` and `Conv1D` layers, which it supports."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        yield
