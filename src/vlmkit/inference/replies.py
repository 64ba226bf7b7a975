"""Batched generation of chat replies."""

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
    """Generate the next assistant message of each conversation.

    Args:
        model: Chat model, such as [`SmolVLM`]. It runs on its current device in evaluation mode, and its mode is
            restored afterwards.
        processor: Processor of the model, with a chat template.
        chats: Conversations with a list `messages` that ends with a user message. The messages contain the images, or
            the conversation has their precomputed `vision_features (I, N, D)`, see [`ChatCollator`].
        batch_size: Number of conversations per call of `generate`. Default: 16.
        **generation: Keyword arguments of `generate`, such as `max_new_tokens` or `num_beams`.

    Returns:
        One reply per conversation, without special tokens and surrounding whitespace.

    Raises:
        ValueError: If `batch_size` is less than 1, `num_return_sequences` is not 1, a conversation is empty or does not
            end with a user message, or the number of images differs from the number of image parts.

    Example:
        >>> from vlmkit import SmolVLM, VlmkitSmolVLMProcessor
        >>> from vlmkit.data import user_message
        >>> chats = [{"messages": [user_message("What is in this picture?", image="photo.jpg")]}]
        >>> model = SmolVLM.from_pretrained("my-org/smolvlm")  # doctest: +SKIP
        >>> processor = VlmkitSmolVLMProcessor.from_pretrained("my-org/smolvlm")  # doctest: +SKIP
        >>> [reply] = reply_to_chats(model, processor, chats, max_new_tokens=30)  # doctest: +SKIP
    """
    check_generation_options(batch_size, generation=generation)
    replies: list[str] = []
    with evaluation_mode(model):
        for start in tqdm(range(0, len(chats), batch_size), desc="Replying", unit="batch", delay=2):
            batch = [chats[row] for row in range(start, min(start + batch_size, len(chats)))]
            inputs = _prepare_prompts(processor, batch, first_row=start).to(model.device, model.dtype)
            token_ids = model.generate(**inputs, **generation)[:, inputs["input_ids"].shape[1] :]
            replies += [text.strip() for text in processor.batch_decode(token_ids, skip_special_tokens=True)]
    return replies


def first_replies(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    chats: Sequence[dict[str, Any]],
    *,
    count: int = 4,
    **generation: Any,
) -> list[tuple[str, str, str]]:
    """Generate replies to the first questions of a dataset of conversations, for comparison with their answers.

    Args:
        model: See [`reply_to_chats`].
        processor: See [`reply_to_chats`].
        chats: Conversations that start with a question and its answer, such as [`CaptionChats`] and [`QuestionChats`].
            The content of both messages is a list of parts, the last of which is a text.
        count: Maximum number of conversations, counted from the first. Default: 4.
        **generation: Keyword arguments of [`reply_to_chats`], such as `max_new_tokens`.

    Returns:
        Tuples `(question, reply, answer)`, one per conversation.

    Raises:
        ValueError: If a conversation has fewer than two messages, or for the reasons of [`reply_to_chats`].

    Example:
        >>> from vlmkit.data import QuestionChats, load_easy_vqa
        >>> chats = QuestionChats(load_easy_vqa("easy_vqa")["test"])  # doctest: +SKIP
        >>> for question, reply, answer in first_replies(model, processor, chats):  # doctest: +SKIP
        ...     print(f"{question} Reply: {reply}. Answer: {answer}.")
    """
    first = [chats[row] for row in range(min(count, len(chats)))]
    for row, chat in enumerate(first):
        if (num_messages := len(chat.get("messages") or ())) < 2:
            raise ValueError(
                f"Conversation {row} must start with a question and its answer, but has {num_messages} messages."
            )
    questions = [{**chat, "messages": chat["messages"][:1]} for chat in first]
    replies = reply_to_chats(model, processor, questions, **generation)
    texts = [[message["content"][-1]["text"] for message in chat["messages"][:2]] for chat in first]
    return [(question, reply, answer) for (question, answer), reply in zip(texts, replies, strict=True)]


def _prepare_prompts(processor: ProcessorMixin, chats: Sequence[dict[str, Any]], first_row: int) -> Any:
    """Prepare the inputs of `generate` for a batch of conversations.

    Raises:
        ValueError: If a conversation is empty or does not end with a user message.
    """
    for row, chat in enumerate(chats, start=first_row):
        if not chat.get("messages"):
            raise ValueError(
                f"Conversation {row} must have a non-empty list `messages`, but got {chat.get('messages')!r}. Its keys "
                f"are {sorted(chat)}."
            )
        if (role := chat["messages"][-1].get("role")) != "user":
            raise ValueError(f"Conversation {row} must end with a message of the role 'user', but got {role!r}.")
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
