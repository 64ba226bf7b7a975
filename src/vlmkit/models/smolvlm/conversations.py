"""Validation of conversations before a chat template writes them as text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vlmkit.validation import check_choice

ROLES = ("system", "user", "assistant")
PARTS = ("text", "image", "image_url")


def validate_conversation(conversation: Sequence[Any], image_token: str) -> Sequence[Any]:
    """Validate a conversation or a batch of them, and return them as dictionaries.

    Messages and parts may be dictionaries, dataclasses or pydantic models. Keys that are `None` are dropped (Arrow
    tables fill in missing keys with `None`).

    Args:
        conversation: Messages `{"role", "content"}`, or lists of messages.
        image_token: Placeholder of an image, which the texts must not contain.

    Raises:
        ValueError: If a conversation or message is empty, or a role, part or text is not supported.
    """
    if not conversation:
        raise ValueError("A conversation must have at least one message, but got none.")
    if all(isinstance(messages, (list, tuple)) for messages in conversation):
        return [validate_conversation(messages, image_token) for messages in conversation]
    messages = [_as_dictionary(message) for message in conversation]
    if not all(isinstance(message, dict) for message in messages):
        raise ValueError(
            f"A conversation must be a list of messages {{'role', 'content'}}, or a list of such lists, but got "
            f"{conversation!r:.80}."
        )
    return [_validate_message(number, message, image_token) for number, message in enumerate(messages)]


def _validate_message(number: int, message: dict[str, Any], image_token: str) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    check_choice("role", role, ROLES, where=f"of message {number}")
    if not content:
        raise ValueError(f"Message {number} ({role}) must not be empty. Remove it.")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    parts = [_as_dictionary(part) for part in parts] if isinstance(parts, list | tuple) else parts
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            f"The content of message {number} ({role}) must be a string or a list of parts, but got {content!r:.80}."
        )
    parts = [{name: value for name, value in part.items() if value is not None} for part in parts]
    for part in parts:
        check_choice("type", part.get("type"), PARTS, where=f"of a part of message {number}")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise ValueError(f"Message {number} ({role}) has a text part without a text. Add the text, or remove it.")
        if image_token in part.get("text", ""):
            raise ValueError(
                f"The texts of message {number} ({role}) must not contain {image_token}. Pass images as parts "
                '{"type": "image"}.'
            )
    if role == "assistant" and not "".join(part.get("text", "") for part in parts).strip():
        raise ValueError(f"Message {number} (assistant) must have a text. Add the reply, or remove the message.")
    return {**message, "content": content if isinstance(content, str) else parts}


def _as_dictionary(value: Any) -> Any:
    """Turn a dataclass or pydantic model, such as a message of an API client, into a dictionary."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value.model_dump() if callable(getattr(value, "model_dump", None)) else value
