"""Checks of arguments, whose errors name the argument, the value and the fix."""

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Suggest the most similar candidate for a misspelt name.

    Args:
        name: Name that was not found.
        candidates: Valid names.

    Returns:
        The sentence `" Did you mean 'x'?"`, or an empty string if no candidate is similar.

    Example:
        >>> did_you_mean("temprature", ["temperature", "loss"])
        " Did you mean 'temperature'?"
    """
    close = difflib.get_close_matches(name, list(candidates), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_arguments(function: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Check that a function accepts keyword arguments, before it passes them on.

    Args:
        function: Name of the function.
        names: Names of the keyword arguments.
        known: Names that the function accepts.

    Raises:
        TypeError: If a name is unknown. The message suggests the most similar one.

    Example:
        >>> check_arguments("forward", ["pixel_value"], ["pixel_values", "labels"])
        Traceback (most recent call last):
        TypeError: forward has no argument 'pixel_value'. Did you mean 'pixel_values'?
    """
    known = list(known)
    for name in sorted(set(names) - set(known)):
        raise TypeError(f"{function} has no argument {name!r}.{did_you_mean(name, known)}")


def check_choice(name: str, value: Any, choices: Iterable[Any], where: str = "") -> None:
    """Check that an argument is one of its choices.

    Args:
        name: Name of the argument.
        value: Value of the argument.
        choices: Valid values.
        where: Location of the value in the input, such as `"of message 2"`.

    Raises:
        ValueError: If the value is not one of the choices.

    Example:
        >>> check_choice("pooling", "meen", ("mean", "cls"))
        Traceback (most recent call last):
        ValueError: `pooling` must be one of 'mean', 'cls', but got 'meen'. Did you mean 'mean'?
    """
    choices = list(choices)
    if value not in choices:
        names = [choice for choice in choices if isinstance(choice, str)]
        hint = did_you_mean(value, names) if isinstance(value, str) else ""
        argument = f"`{name}` {where}".rstrip()
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, choices))}, but got {value!r}.{hint}")


def check_at_least(name: str, value: int | None, minimum: int = 1) -> None:
    """Check that a number, unless it is `None`, is not smaller than its minimum.

    Args:
        name: Name of the argument.
        value: Value of the argument.
        minimum: Smallest valid value.

    Raises:
        ValueError: If the value is smaller than `minimum`.

    Example:
        >>> check_at_least("batch_size", 0)
        Traceback (most recent call last):
        ValueError: `batch_size` must be at least 1, but got 0.
    """
    if value is not None and value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, but got {value}.")
