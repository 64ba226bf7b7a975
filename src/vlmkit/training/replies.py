"""What a chat model answers to many conversations."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets.utils import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from vlmkit.data.chat_collator import stacked_image_tokens


@torch.no_grad()
def reply_to_chats(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    chats: Sequence[dict[str, Any]],
    batch_size: int = 16,
    **generation: Any,
) -> list[str]:
    """Let the model speak next in every conversation.

    Args:
        model: a chat model; it runs where its weights are, in evaluation mode, and keeps its mode.
        processor: the model's.
        chats: items with `messages`, the last of which is the user's, with the images in them, or beside them
            `image_tokens (images, N, D)`; see [`ChatCollator`].
        batch_size: conversations per call of `generate`.
        **generation: passed to `generate`, such as `max_new_tokens` or `num_beams`.

    Returns:
        A reply per conversation, without special tokens and surrounding space.

    Raises:
        ValueError: `batch_size` is below 1, several replies per conversation are asked for, a conversation does not end
            with the user, or has more or fewer images than image parts.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give 1 or more")
    if generation.get("num_return_sequences", 1) != 1:
        raise ValueError(f"num_return_sequences is {generation['num_return_sequences']}; a conversation gets one reply")
    training = model.training
    model.eval()
    replies: list[str] = []
    try:
        for start in tqdm(range(0, len(chats), batch_size), desc="Replying", unit="batch", delay=2):
            batch = [chats[row] for row in range(start, min(start + batch_size, len(chats)))]
            inputs = _prompts(processor, batch, first_row=start).to(model.device, model.dtype)
            written = model.generate(**inputs, **generation)[:, inputs["input_ids"].shape[1] :]
            replies += [text.strip() for text in processor.batch_decode(written, skip_special_tokens=True)]
    finally:
        model.train(training)
    return replies


def _prompts(processor: ProcessorMixin, chats: Sequence[dict[str, Any]], first_row: int) -> Any:
    """The inputs of `generate` for a batch of conversations."""
    for row, chat in enumerate(chats, start=first_row):
        role = chat["messages"][-1]["role"] if chat["messages"] else None
        if role != "user":
            raise ValueError(f"conversation {row} ends with {role!r}; it must end with what the user says")
    inputs = processor.apply_chat_template(
        [chat["messages"] for chat in chats],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    if (image_tokens := stacked_image_tokens(chats)) is not None:
        inputs["image_tokens"] = image_tokens
    return inputs
