"""Different learning rates for parts of a model."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import Trainer, TrainingArguments

from vlmkit.compat.weight_decay import decay_parameter_names
from vlmkit.validation import did_you_mean


def optimizer_with_group_learning_rates(
    training_args: TrainingArguments, model: nn.Module, *, parameter_groups: Mapping[str, float]
) -> tuple[type[Optimizer], dict[str, Any]]:
    """Prepare the optimizer that `Trainer` would create, with other learning rates for some parts of the model.

    All other parameters use `training_args.learning_rate`, which is also the rate in the log. As in `Trainer`, biases
    and normalization layers are not decayed, frozen parameters are excluded, and the scheduler scales all rates by the
    same factor. Freeze modules before calling this function.

    Args:
        training_args: Arguments of the trainer, with the optimizer, the default learning rate and the weight decay.
        model: Model of the trainer.
        parameter_groups: Learning rates by name of a module or parameter, such as `"model.language_model"` or
            `"lm_head"`. If several names match a parameter, the longest one is used. A tied weight is only matched by
            its first name in `model.named_parameters()`.

    Returns:
        Class and keyword arguments of the optimizer, for `Trainer(optimizer_cls_and_kwargs=...)`. The trainer empties
        the keyword arguments, so call this function once per trainer.

    Raises:
        ValueError: If a name does not match any parameter (the message suggests the most similar name), a rate is not a
            positive number, or `training_args.optim` defines its own parameter groups.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2))
        >>> training_args = TrainingArguments(learning_rate=1e-4, weight_decay=0.1, report_to="none")
        >>> groups = {"transformer.wte": 2e-5}
        >>> _, settings = optimizer_with_group_learning_rates(training_args, model, parameter_groups=groups)
        >>> [(len(group["params"]), group["lr"], group["weight_decay"]) for group in settings["params"]]
        [(5, 0.0001, 0.1), (10, 0.0001, 0.0), (1, 2e-05, 0.1)]
    """
    names = [name for name, _ in model.named_parameters()]
    for part, rate in parameter_groups.items():
        if not any(_belongs_to(part, name) for name in names):
            parts = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
            raise ValueError(
                f"`parameter_groups` must contain names of modules or parameters of the model, but got {part!r}."
                f"{did_you_mean(part, sorted(parts))}"
            )
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
            raise ValueError(
                f"The learning rate of {part!r} must be a positive number, but got {rate!r}. In YAML, write 1.0e-4, "
                "because 1e-4 is a string."
            )
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(training_args, model)
    if settings.keys() & {"params", "model", "optimizer_dict"}:
        raise ValueError(
            f"`optim` must not define its own parameter groups, but got {training_args.optim.value}. Use an optimizer "
            "such as adamw_torch."
        )
    return optimizer_class, {**settings, "params": _build_groups(training_args, model, parameter_groups)}


def _build_groups(
    training_args: TrainingArguments, model: nn.Module, parameter_groups: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Group the trainable parameters by part and weight decay, default groups first, without empty groups."""
    decaying = decay_parameter_names(model)
    rates = {"": training_args.learning_rate, **parameter_groups}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {
        (part, decays): [] for part in rates for decays in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = max((part for part in parameter_groups if _belongs_to(part, name)), key=len, default="")
            groups[part, name in decaying].append(parameter)
    return [
        {"params": parameters, "lr": rates[part], "weight_decay": training_args.weight_decay if decays else 0.0}
        for (part, decays), parameters in groups.items()
        if parameters
    ]


def _belongs_to(part: str, name: str) -> bool:
    """Return whether a parameter is the named part itself or belongs to it."""
    return f"{name}.".startswith(f"{part}.")
