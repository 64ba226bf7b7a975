"""Collator for conversations about images."""

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
    """Collator of conversations for training chat models with `Trainer(data_collator=...)`.

    A row has `messages`, and either the images within the messages or the cached `vision_features (I, N, D)` of its I
    image parts. A batch must not mix images and features. Set `remove_unused_columns=False` in `TrainingArguments`,
    because `Trainer` would drop these columns otherwise.

    The batch contains

    - `input_ids (B, T)`, `attention_mask (B, T)` and `labels (B, T)`. Labels are -100 except in the messages of the
      assistant.
    - `pixel_values (I, C, H, W)` or `vision_features (I, N, D)` of all I images of the batch, in order.

    Args:
        processor: Processor with `apply_chat_template(..., return_labels=True)`, such as [`VlmkitSmolVLMProcessor`].

    Raises:
        ValueError: If, on call, a row lacks `messages`, the number of `vision_features` of a row differs from its
            number of image parts without an image, or the processor raises an error.

    Example:
        >>> class Processor:
        ...     def apply_chat_template(self, conversations, return_labels):
        ...         ids = torch.ones(len(conversations), 4, dtype=torch.int64)
        ...         return {"input_ids": ids, "attention_mask": ids, "labels": ids}
        >>> text, image = {"type": "text", "text": "What is it?"}, {"type": "image"}
        >>> row = {"messages": [{"role": "user", "content": [image, text]}], "vision_features": [[[0.0], [1.0]]]}
        >>> batch = ChatCollator(Processor())([row, row])
        >>> batch["labels"].shape, batch["vision_features"].shape
        (torch.Size([2, 4]), torch.Size([2, 2, 1]))
    """

    processor: ProcessorMixin

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate rows into a batch."""
        messages, vision_features = get_required_column(rows, "messages"), stack_vision_features(rows)
        batch = dict(self.processor.apply_chat_template(messages, return_labels=True))
        return batch if vision_features is None else {**batch, "vision_features": vision_features}


def stack_vision_features(chats: Sequence[dict[str, Any]]) -> Tensor | None:
    """Stack the cached vision features of all conversations.

    Args:
        chats: Conversations in the format of [`ChatCollator`].

    Returns:
        Features `(I, N, D)` of all images in order, or `None` if the conversations do not have features.

    Raises:
        ValueError: If the number of features of a conversation differs from its number of image parts without an image,
            or some conversations have images and others have features.
    """
    stacked, has_images = [], False
    for row, chat in enumerate(chats):
        contents = [message.get("content") for message in chat["messages"]]  # the processor validates them
        parts = [part for content in contents if isinstance(content, list) for part in content]
        shown = [part for part in parts if isinstance(part, dict) and str(part.get("type")).startswith("image")]
        num_bare = sum(all(part.get(name) is None for name in _IMAGES) for part in shown)
        has_images |= num_bare < len(shown)
        features = [] if chat.get("vision_features") is None else chat["vision_features"]
        if len(features) != num_bare:
            raise ValueError(
                f"Conversation {row} must have `vision_features` for each of its {num_bare} image parts without an "
                f"image, but got features of {len(features)} images."
            )
        stacked += [torch.as_tensor(image).float() for image in features]
    if stacked and has_images:
        raise ValueError(
            "A batch must contain either images or `vision_features`, but got both. Cache the features of all images "
            "or of none."
        )
    return torch.stack(stacked) if stacked else None
