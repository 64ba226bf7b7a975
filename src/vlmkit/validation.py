"""Errors that name the offending value and the fix."""

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A hint ", did you mean 'x'?" for the candidate closest to a misspelt name, or nothing if none is close.

    Example:
        >>> did_you_mean("temprature", ["temperature", "loss"])
        ", did you mean 'temperature'?"
    """
    close = difflib.get_close_matches(name, list(candidates), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Check an option against its choices.

    Raises:
        ValueError: the value is not among the choices; the message names them.
    """
    choices = list(choices)
    if value not in choices:
        names = [choice for choice in choices if isinstance(choice, str)]
        hint = did_you_mean(value, names) if isinstance(value, str) else ""
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}{hint}")


def check_at_least(name: str, value: int | None, minimum: int = 1) -> None:
    """Check that a number, unless it is `None`, is not smaller than its minimum.

    Raises:
        ValueError: If it is.

    Example:
        >>> check_at_least("batch_size", 0)
        Traceback (most recent call last):
        ValueError: `batch_size` must be at least 1, but got 0.
    """
    if value is not None and value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, but got {value}.")
