"""What a chat model answers to many conversations."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets.utils import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from vlmkit.data.chats.chat_collator import stack_vision_features
from vlmkit.inference.evaluation_mode import evaluation_mode
from vlmkit.inference.generation_options import check_generation_options


@torch.no_grad()
def reply_to_chats(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    chats: Sequence[dict[str, Any]],
    *,
    batch_size: int = 16,
    **generation: Any,
) -> list[str]:
    """Let the model speak next in every conversation.

    Args:
        model: a chat model; it runs where its weights are, in evaluation mode, and keeps its mode.
        processor: the model's.
        chats: items with `messages`, the last of which is the user's, with the images in them, or beside them
            `vision_features (images, N, D)`; see [`ChatCollator`].
        batch_size: conversations per call of `generate`.
        **generation: passed to `generate`, such as `max_new_tokens` or `num_beams`.

    Returns:
        A reply per conversation, without special tokens and surrounding space.

    Raises:
        ValueError: `batch_size` is below 1, several replies per conversation are asked for, a conversation has no
            messages, does not end with the user, or has more or fewer images than image parts.
    """
    check_generation_options(batch_size, generation=generation, limit="a conversation gets one reply")
    replies: list[str] = []
    with evaluation_mode(model):
        for start in tqdm(range(0, len(chats), batch_size), desc="Replying", unit="batch", delay=2):
            batch = [chats[row] for row in range(start, min(start + batch_size, len(chats)))]
            inputs = _prepare_prompts(processor, batch, first_row=start).to(model.device, model.dtype)
            written = model.generate(**inputs, **generation)[:, inputs["input_ids"].shape[1] :]
            replies += [text.strip() for text in processor.batch_decode(written, skip_special_tokens=True)]
    return replies


def first_replies(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    chats: Sequence[dict[str, Any]],
    *,
    count: int = 4,
    **generation: Any,
) -> list[tuple[str, str, str]]:
    """Ask the model what the first conversations begin with, to look at its replies beside the right ones.

    Args:
        model: see [`reply_to_chats`].
        processor: the model's.
        chats: conversations that begin with a question and its answer, each a list of parts that ends with a text, as
            [`CaptionChats`] and [`QuestionChats`] make them.
        count: conversations to take, or all if there are fewer.
        **generation: passed to `generate`.

    Returns:
        Question, reply and answer of each.

    Raises:
        ValueError: a conversation has no answer, or as [`reply_to_chats`] raises.
    """
    first = [chats[row] for row in range(min(count, len(chats)))]
    for row, chat in enumerate(first):
        if len(chat.get("messages") or ()) < 2:
            raise ValueError(f"conversation {row} has no question with an answer; give messages of at least one turn")
    asked = [{**chat, "messages": chat["messages"][:1]} for chat in first]
    replies = reply_to_chats(model, processor, asked, **generation)
    texts = [[message["content"][-1]["text"] for message in chat["messages"][:2]] for chat in first]
    return [(question, reply, answer) for (question, answer), reply in zip(texts, replies, strict=True)]


def _prepare_prompts(processor: ProcessorMixin, chats: Sequence[dict[str, Any]], first_row: int) -> Any:
    """The inputs of `generate` for a batch of conversations."""
    for row, chat in enumerate(chats, start=first_row):
        if not chat.get("messages"):
            raise ValueError(f"conversation {row} has no messages, only {sorted(chat)}; give a list of at least one")
        if (role := chat["messages"][-1].get("role")) != "user":
            raise ValueError(f"conversation {row} ends with {role!r}; it must end with what the user says")
    inputs = processor.apply_chat_template(
        [chat["messages"] for chat in chats],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    if (vision_features := stack_vision_features(chats)) is not None:
        inputs["vision_features"] = vision_features
    return inputs
