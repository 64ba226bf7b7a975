"""Training and evaluation tasks of ablation.py: questions about synthetic scenes, and captions of photographs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict

from vlmkit.data import CAPTION_PROMPTS, CaptionChats, QuestionChats, answer_baselines, user_message
from vlmkit.metrics import caption_metrics, vqa_accuracy

Chats = Sequence[dict[str, Any]]


@dataclass
class Task:
    """Training conversations, evaluation requests and metrics.

    Args:
        train: Training conversations.
        requests: Evaluation conversations that end with a user message.
        score: Function that computes metrics of the replies to `requests`. The first metric is the main score.
        max_new_tokens: Maximum length of a reply.
        controls: Further evaluation requests by name. The main score of their replies is a baseline.
        recipe: All settings, apart from the design, that affect a result.
    """

    train: Chats
    requests: Chats
    score: Callable[[list[str]], dict[str, float]]
    max_new_tokens: int
    controls: dict[str, Chats] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass
class WithoutImages:
    """Conversations without their images."""

    chats: Chats

    def __len__(self) -> int:
        return len(self.chats)

    def __getitem__(self, index: int) -> dict[str, Any]:
        messages = [dict(message) for message in self.chats[index]["messages"]]
        for message in messages:
            if isinstance(message["content"], list):
                message["content"] = [part for part in message["content"] if part["type"] != "image"]
        return {"messages": messages}


def scene_task(tables: DatasetDict, num_questions: int, recipe: dict[str, Any]) -> Task:
    """Build the task of all questions about training images and an equal number of test questions of each kind.

    Raises:
        SystemExit: If `num_questions` is less than the number of question kinds.
    """
    table = tables["test"]
    kinds = [kind for row in table["kinds"] for kind in row]
    each = num_questions // len(set(kinds))
    if each < 1:
        raise SystemExit(
            f"`--num_questions` must be at least {len(set(kinds))}, the number of question kinds, but got "
            f"{num_questions}."
        )
    chosen = sorted(index for kind in set(kinds) for index in [i for i, k in enumerate(kinds) if k == kind][:each])
    chats = QuestionChats(table, max_turns=1)
    conversations = [chats[index] for index in chosen]
    answers = [chat["messages"][1]["content"][-1]["text"] for chat in conversations]
    chosen_kinds = [kinds[index] for index in chosen]
    guesses = answer_baselines(tables["train"], table)["per_question"]

    def score(replies: list[str]) -> dict[str, float]:
        metrics = {"accuracy": vqa_accuracy(replies, answers)["accuracy"]}
        for kind in sorted(set(chosen_kinds)):
            rows = [row for row, row_kind in enumerate(chosen_kinds) if row_kind == kind]
            metrics[f"accuracy/{kind}"] = vqa_accuracy([replies[r] for r in rows], [answers[r] for r in rows])[
                "accuracy"
            ]
        # The most frequent training answer to the same question.
        metrics["majority"] = vqa_accuracy([guesses[index] for index in chosen], answers)["accuracy"]
        return metrics

    requests = [{**chat, "messages": chat["messages"][:1]} for chat in conversations]
    return Task(QuestionChats(tables["train"]), requests, score, max_new_tokens=2, recipe=recipe)


def caption_task(tables: DatasetDict, num_images: int, recipe: dict[str, Any]) -> Task:
    """Build the captioning task, with another image and no image as controls."""
    table = tables["test"].select(range(min(num_images, len(tables["test"]))))
    references = list(table["captions"])

    def score(replies: list[str]) -> dict[str, float]:
        metrics = caption_metrics(replies, references)
        return {"cider": metrics.pop("cider"), **metrics}

    requests = CaptionRequests(table)
    controls = {"cider_shuffled": CaptionRequests(table, shift=1), "cider_no_image": WithoutImages(requests)}
    return Task(CaptionChats(tables["train"]), requests, score, 30, controls, recipe)


@dataclass
class CaptionRequests:
    """Caption requests for the images of a table.

    Args:
        table: Table of images.
        shift: Offset of the row whose image is used.
    """

    table: Dataset
    shift: int = 0

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.table[(index + self.shift) % len(self.table)]["image"]
        return {"messages": [user_message(CAPTION_PROMPTS[0], image=image)]}
