"""What the rows of ablation.py learn and are scored on: questions about drawn scenes, captions of photographs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict

from vlmkit.data import CAPTION_PROMPTS, CaptionChats, QuestionChats, answer_baselines, user_message
from vlmkit.metrics import caption_metrics, vqa_accuracy

Chats = Sequence[dict[str, Any]]


@dataclass
class Task:
    """Conversations to learn from and to answer, and how answers are scored.

    Args:
        train: conversations.
        asked: conversations that end with what the user says.
        score: makes metrics of the answers to `asked`, the score first.
        max_new_tokens: of an answer.
        controls: further conversations, whose answers' score is a baseline, by the baseline's name.
        recipe: all that a result depends on beside the design.
    """

    train: Chats
    asked: Chats
    score: Callable[[list[str]], dict[str, float]]
    max_new_tokens: int
    controls: dict[str, Chats] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass
class Blind:
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
    """All questions of the training images; of the test images, as many questions of each kind."""
    table = tables["test"]
    kinds = [kind for row in table["kinds"] for kind in row]
    each = num_questions // len(set(kinds))
    if each < 1:
        raise SystemExit(f"--num_questions {num_questions} are fewer than the {len(set(kinds))} kinds of questions")
    places = sorted(place for kind in set(kinds) for place in [i for i, k in enumerate(kinds) if k == kind][:each])
    chats = QuestionChats(table, max_turns=1)
    whole = [chats[place] for place in places]
    answers = [chat["messages"][1]["content"][-1]["text"] for chat in whole]
    asked_kinds = [kinds[place] for place in places]
    guesses = answer_baselines(tables["train"], table)["per_question"]

    def score(replies: list[str]) -> dict[str, float]:
        metrics = {"accuracy": vqa_accuracy(replies, answers)["accuracy"]}
        for kind in sorted(set(asked_kinds)):
            rows = [row for row, own in enumerate(asked_kinds) if own == kind]
            metrics[f"accuracy/{kind}"] = vqa_accuracy([replies[r] for r in rows], [answers[r] for r in rows])[
                "accuracy"
            ]
        # The best that can be said from the question alone, on the training answers.
        metrics["majority"] = vqa_accuracy([guesses[place] for place in places], answers)["accuracy"]
        return metrics

    asked = [{**chat, "messages": chat["messages"][:1]} for chat in whole]
    return Task(QuestionChats(tables["train"]), asked, score, max_new_tokens=2, recipe=recipe)


def caption_task(tables: DatasetDict, num_images: int, recipe: dict[str, Any]) -> Task:
    """The captions of the training images, and one of each test image; controls see another image, or none."""
    table = tables["test"].select(range(min(num_images, len(tables["test"]))))
    references = list(table["captions"])

    def score(replies: list[str]) -> dict[str, float]:
        metrics = caption_metrics(replies, references)
        return {"cider": metrics.pop("cider"), **metrics}

    asked = Photographs(table)
    controls = {"cider_shuffled": Photographs(table, shift=1), "cider_no_image": Blind(asked)}
    return Task(CaptionChats(tables["train"]), asked, score, 30, controls, recipe)


@dataclass
class Photographs:
    """Requests for a caption of a row's image, or of a later row's."""

    table: Dataset
    shift: int = 0

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.table[(index + self.shift) % len(self.table)]["image"]
        return {"messages": [user_message(CAPTION_PROMPTS[0], image=image)]}
