"""Fingerprints of weights and texts, with which caches detect changes."""

import hashlib

import torch
from torch import nn


def text_fingerprint(*parts: str, size: int = 16) -> str:
    """Compute the fingerprint of a sequence of texts.

    Args:
        *parts: Texts.
        size: Length of the fingerprint in bytes.

    Returns:
        Hexadecimal string of `2 * size` characters.

    Example:
        >>> text_fingerprint("a", "b", size=4) == text_fingerprint("ab", size=4)
        False
    """
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=size).hexdigest()


def weights_fingerprint(module: nn.Module, *settings: str, size: int = 16, without: str | None = None) -> str:
    """Compute a fingerprint of the weights and saved buffers of a module, and of its settings.

    Args:
        module: Module on any device and in any precision.
        *settings: Texts to include, such as the configuration.
        size: Length of the fingerprint in bytes.
        without: Exclude weights whose name contains this text.

    Returns:
        Hexadecimal string of `2 * size` characters.
    """
    content_hash = hashlib.blake2b("\0".join(settings).encode(), digest_size=size)
    for name, tensor in module.state_dict().items():
        if without is not None and without in name:
            continue
        content_hash.update(name.encode())
        content_hash.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content_hash.hexdigest()
