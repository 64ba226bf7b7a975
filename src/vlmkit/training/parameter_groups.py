"""A learning rate for each part of a model."""

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
    """The optimizer that `Trainer` would make, with learning rates of their own for some parts of the model.

    Everything else is as in `Trainer`: the other parameters learn at `training_args.learning_rate` (which is also the
    rate in its log), biases and norms do not decay, frozen parameters are left out, and the schedule scales all rates
    alike. Freeze before the call.

    Args:
        training_args: the same as the trainer's.
        model: the same as the trainer's.
        parameter_groups: learning rate by the name of a module or parameter, such as `"model.language_model"` or
            `"lm_head"`. The longest name that fits a parameter decides; a tied weight has the first of
            its names in `model.named_parameters()`.

    Returns:
        What one `Trainer` takes as `optimizer_cls_and_kwargs`; it empties the dictionary, so call again for another.

    Raises:
        ValueError: a name fits no parameter (the message names the closest), a rate is not a positive number, or
            `training_args.optim` forms groups of parameters itself.

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
            raise ValueError(f"The model has no parameter in {part!r}.{did_you_mean(part, sorted(parts))}")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
            raise ValueError(
                f"the learning rate of {part!r} is {rate!r}; give a positive number (YAML reads 1e-4 as text, 1.0e-4 "
                "as a number)"
            )
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(training_args, model)
    if settings.keys() & {"params", "model", "optimizer_dict"}:
        raise ValueError(
            f"optim {training_args.optim.value} forms groups of parameters itself; choose one such as adamw_torch"
        )
    return optimizer_class, {**settings, "params": _build_groups(training_args, model, parameter_groups)}


def _build_groups(
    training_args: TrainingArguments, model: nn.Module, parameter_groups: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Trained parameters by part and decay, those of no part first; no group is empty."""
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
    """Whether a parameter is the part or lies in it."""
    return f"{name}.".startswith(f"{part}.")
