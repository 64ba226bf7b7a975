"""From conversations to the batches that chat models train on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import ProcessorMixin

from vlmkit.data.batch_columns import get_required_column

_IMAGES = {"image", "path", "url", "image_url", "base64"}


@dataclass
class ChatCollator:
    """Makes a batch of conversations, for `Trainer(data_collator=...)`.

    A row has `messages`, with the images in them, or beside them `vision_features (images, N, D)` for the image parts
    without an image; a batch has the one or the other. Trainer needs `remove_unused_columns=False`, as the model does
    not know these columns.

    The batch holds `input_ids`, `attention_mask` and `labels` `(B, T)`, -100 wherever the assistant does not speak, and
    `pixel_values (I, C, H, W)` or `vision_features (I, N, D)` of all images in their order.

    Args:
        processor: with `apply_chat_template(..., return_labels=True)`.

    Raises:
        ValueError: If, on call, a row has no messages, or not one image or `vision_features` for each of its image
            parts, or the processor raises.
    """

    processor: ProcessorMixin

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate rows into a batch."""
        messages, vision_features = get_required_column(rows, "messages"), stack_vision_features(rows)
        batch = dict(self.processor.apply_chat_template(messages, return_labels=True))
        return batch if vision_features is None else {**batch, "vision_features": vision_features}


def stack_vision_features(chats: Sequence[dict[str, Any]]) -> Tensor | None:
    """Stack the cached vision features `(I, N, D)` of the images of conversations in their order, `None` without any.

    Args:
        chats: see [`ChatCollator`].

    Raises:
        ValueError: a conversation has more or fewer of them than image parts without an image, or others have images.
    """
    stacked, has_images = [], False
    for row, chat in enumerate(chats):
        contents = [message.get("content") for message in chat["messages"]]  # the processor names what is malformed
        parts = [part for content in contents if isinstance(content, list) for part in content]
        shown = [part for part in parts if isinstance(part, dict) and str(part.get("type")).startswith("image")]
        num_bare = sum(all(part.get(name) is None for name in _IMAGES) for part in shown)
        has_images |= num_bare < len(shown)
        features = [] if chat.get("vision_features") is None else chat["vision_features"]
        if len(features) != num_bare:
            raise ValueError(
                f"conversation {row} has {num_bare} image parts without an image, and vision_features of "
                f"{len(features)} images; give one for each"
            )
        stacked += [torch.as_tensor(image).float() for image in features]
    if stacked and has_images:
        raise ValueError("some conversations hold images, and others vision_features; a batch has the one or the other")
    return torch.stack(stacked) if stacked else None
