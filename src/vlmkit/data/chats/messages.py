"""Messages of a conversation about an image."""

from collections.abc import Sequence
from typing import Any

import torch

Message = dict[str, Any]


def user_message(text: str, *, image: Any = None, has_image: bool = True) -> Message:
    """What a user says, about an image or not.

    Args:
        text: the question.
        image: comes before it; if not given, the model takes cached `vision_features` in its place.
        has_image: whether there is an image at all.

    Example:
        >>> user_message("Who is it?")["content"]
        [{'type': 'image'}, {'type': 'text', 'text': 'Who is it?'}]
    """
    shown = [{"type": "image"} if image is None else {"type": "image", "image": image}] if has_image else []
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def assistant_message(text: str) -> Message:
    """What the assistant says.

    Example:
        >>> assistant_message("A dog.")
        {'role': 'assistant', 'content': [{'type': 'text', 'text': 'A dog.'}]}
    """
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def chat_about_row(row: dict[str, Any], turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return a conversation whose first message shows the image of a row.

    Args:
        row: Row with `image` or cached `vision_features`.
        turns: Questions with their answers.
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
