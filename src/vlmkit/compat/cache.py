"""The name of the key/value cache as argument and output.

transformers 5.23 calls it `past_key_values`, 5.24 calls it `cache`. vlmkit's own signatures say `cache`. Once 5.23 is
no longer supported, replace `CACHE_NAME` with `"cache"` and remove this module.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import transformers
from packaging.version import Version
from transformers import Cache

CACHE_NAME = "cache" if Version(transformers.__version__).release >= (5, 24) else "past_key_values"


def accepts_cache(function: Callable) -> Callable:
    """Let a function with the parameter `cache` also be called with `past_key_values`.

    The signature that callers can inspect shows the name that the installed transformers uses. Where that is `cache`,
    the other name is deprecated.

    Example:
        >>> @accepts_cache
        ... def forward(cache=None):
        ...     return cache
        >>> forward(cache=1), forward(past_key_values=2)
        (1, 2)
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if "past_key_values" in kwargs:
            if CACHE_NAME == "cache":
                warnings.warn("`past_key_values` is deprecated. Use `cache`.", DeprecationWarning, stacklevel=2)
            kwargs["cache"] = kwargs.pop("past_key_values")
        return function(*args, **kwargs)

    parameters = [p.replace(name=CACHE_NAME) if p.name == "cache" else p for p in signature.parameters.values()]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapper


def cache_argument(cache: Cache | None) -> dict[str, Cache]:
    """Return the keyword that passes a cache to a model or to `generate`, or no keyword without a cache."""
    return {} if cache is None else {CACHE_NAME: cache}


def cache_output(outputs: Mapping[str, Any]) -> dict[str, Cache | None]:
    """Return the cache of a model's outputs, as the keyword of another output class."""
    return {CACHE_NAME: outputs.get(CACHE_NAME)}
