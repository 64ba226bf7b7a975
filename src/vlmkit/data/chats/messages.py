"""Messages of conversations about images."""

from collections.abc import Sequence
from typing import Any

import torch

Message = dict[str, Any]


def user_message(text: str, *, image: Any = None, has_image: bool = True) -> Message:
    """Create a message of the user, with or without an image.

    Args:
        text: Text of the message.
        image: Image that precedes the text, such as a PIL image or a path. If `None`, the image part is a placeholder
            for cached `vision_features`.
        has_image: Add an image part. If `False`, `image` is ignored.

    Returns:
        A message in the format of `apply_chat_template`.

    Example:
        >>> user_message("Who is it?")["content"]
        [{'type': 'image'}, {'type': 'text', 'text': 'Who is it?'}]
    """
    shown = [{"type": "image"} if image is None else {"type": "image", "image": image}] if has_image else []
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def assistant_message(text: str) -> Message:
    """Create a message of the assistant.

    Args:
        text: Text of the message.

    Returns:
        A message in the format of `apply_chat_template`.

    Example:
        >>> assistant_message("A dog.")
        {'role': 'assistant', 'content': [{'type': 'text', 'text': 'A dog.'}]}
    """
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def chat_about_row(row: dict[str, Any], turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Create a conversation about the image of a row, which is part of the first message.

    Args:
        row: Row with `image` or cached `vision_features`.
        turns: Pairs of question and answer.

    Returns:
        A dictionary with `messages`, and `vision_features (1, N, D)` if the row has cached features.
    """
    vision_features = row.get("vision_features")
    messages: list[Message] = []
    for question, answer in turns:
        messages.append(
            user_message(question, image=None if vision_features is not None else row["image"], has_image=not messages)
        )
        messages.append(assistant_message(answer))
    if vision_features is None:
        return {"messages": messages}
    return {"messages": messages, "vision_features": torch.as_tensor(vision_features)[None]}
