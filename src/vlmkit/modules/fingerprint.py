"""Fingerprints of weights and texts."""

import hashlib

import torch
from torch import nn


def text_fingerprint(*parts: str, size: int = 16) -> str:
    """A fingerprint of some texts in their order, in hexadecimal.

    Example:
        >>> text_fingerprint("a", "b", size=4) == text_fingerprint("ab", size=4)
        False
    """
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=size).hexdigest()


def weights_fingerprint(module: nn.Module, *settings: str, size: int = 16, without: str | None = None) -> str:
    """A fingerprint that changes with any weight or saved buffer of a module, and with its settings.

    Args:
        module: of any device and precision.
        *settings: texts that count too, such as the configuration.
        size: in bytes; the text has two characters for each.
        without: weights with this in their names do not count.
    """
    content_hash = hashlib.blake2b("\0".join(settings).encode(), digest_size=size)
    for name, tensor in module.state_dict().items():
        if without is not None and without in name:
            continue
        content_hash.update(name.encode())
        content_hash.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content_hash.hexdigest()
