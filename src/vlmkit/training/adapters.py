"""LoRA of the language model within a vision-language model, by peft."""

import os

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def add_lora(
    model: PreTrainedModel, rank: int = 64, alpha: int = 128, dropout: float = 0.1, use_dora: bool = False
) -> PeftModel:
    """Freeze a model but for its connector, and adapt all linear layers of its language model except the head.

    `save_pretrained` of the result writes the adapter with the whole connector; [`load_lora`] puts it back onto the
    same base, and `merge_and_unload()` makes an ordinary model of it. The base is changed in place.

    Args:
        model: with `language_model` and `connector`, saved before if the adapter shall find its base again.
        rank: of the updates.
        alpha: the updates are scaled by alpha / rank.
        dropout: of what the updates see, in training.
        use_dora: whether to learn magnitudes and directions apart.

    Raises:
        ValueError: the rank is below 1, or the model has no connector.

    References:
        Hu et al., "LoRA" (arXiv:2106.09685); Liu et al., "DoRA" (arXiv:2402.09353). The defaults are vlm-training's
        (see `docs/papers.md`).
    """
    if rank < 1:
        raise ValueError(f"the rank is {rank}; give 1 or more")
    if not hasattr(model, "connector"):
        raise ValueError(f"{type(model).__name__} has no connector between images and language model to train")
    language_model = model.language_model
    layers = {
        name.rpartition(".")[2]
        for name, layer in language_model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer is not language_model.get_output_embeddings()
    }
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_dora=use_dora,
        target_modules=rf"language_model\..*\.({'|'.join(sorted(layers))})",
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in language_model.modules()),
        modules_to_save=["connector"],
    )
    return get_peft_model(model, config)


def load_lora(model: PreTrainedModel, adapter: str | os.PathLike, is_trainable: bool = False) -> PeftModel:
    """Put an adapter that was saved apart, with its connector, onto the base that it was trained on.

    Args:
        model: the base.
        adapter: folder or hub id that `save_pretrained` of a model of [`add_lora`] has written.
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
    return adapted
