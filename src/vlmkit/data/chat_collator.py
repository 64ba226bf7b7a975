"""From conversations to the batches that chat models train on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import ProcessorMixin

from vlmkit.data.columns import column, required_column


@dataclass
class ChatCollator:
    """Makes a batch of conversations, for `Trainer(data_collator=...)`.

    A row has `messages`, with the images in them, or beside them `image_tokens (images, N, D)` for the image parts
    without an image; a batch has the one or the other. Trainer needs `remove_unused_columns=False`, as the model does
    not know these columns.

    The batch holds `input_ids`, `attention_mask` and `labels` `(B, T)`, -100 wherever the assistant does not speak, and
    `pixel_values (I, C, H, W)` or `image_tokens (I, N, D)` of all images in their order.

    Args:
        processor: with `apply_chat_template(..., return_labels=True)`.

    Raises:
        ValueError: on call: a column is missing or only in some rows; or as the processor raises.
    """

    processor: ProcessorMixin

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate rows into a batch."""
        messages, image_tokens = required_column(rows, "messages"), column(rows, "image_tokens")
        batch = dict(self.processor.apply_chat_template(messages, return_labels=True))
        if image_tokens is None:
            return batch
        return {**batch, "image_tokens": torch.cat([torch.as_tensor(tokens).float() for tokens in image_tokens])}
