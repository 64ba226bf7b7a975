"""Conversations for the scripts of stage 2: captions asked for, questions answered."""

from dataclasses import dataclass, field

from caption_sources import CAPTIONED, SourceArguments, Tables, check_source, load_tables

from vlmkit.data import CHAT_TASKS, load_easy_vqa, take_rows

DATASETS = (*CAPTIONED, "easy_vqa", "scenes")


@dataclass
class ChatDataArguments(SourceArguments):
    """Which images, captions and questions."""

    datasets: list[str] = field(
        default_factory=lambda: ["scenes"],
        metadata={"help": f"some of {', '.join(DATASETS)}, or web alone; scenes are drawn, and need no data"},
    )
    easy_vqa_folder: str | None = field(
        default=None, metadata={"help": "if it is not installed (pip install easy-vqa)"}
    )
    tasks: list[str] = field(
        default_factory=lambda: list(CHAT_TASKS), metadata={"help": "captions, questions, or both where there are both"}
    )
    max_turns: int = field(default=5, metadata={"help": "questions in a conversation"})


def load_chat_tables(arguments: ChatDataArguments, training: bool = True) -> dict[str, Tables]:
    """The splits of every data set that was asked for, by its name.

    Args:
        arguments: what was asked for.
        training: whether there must be a split to train on beside the one to score on.

    Raises:
        SystemExit: a task or data set is unknown, twice there, or without its data or splits.
    """
    names = arguments.datasets
    if not arguments.tasks or not set(arguments.tasks) <= set(CHAT_TASKS):
        raise SystemExit(f"--tasks are {' '.join(arguments.tasks)}: give captions, questions, or both")
    known = names == ["web"] or set(names) <= set(DATASETS)
    if not names or len(set(names)) < len(names) or not known:
        given, kinds = " ".join(names), ", ".join(DATASETS)
        raise SystemExit(f"--datasets are {given}: give some of {kinds}, each once, or web alone")
    check_source(names, arguments)
    return {
        name: take_rows(load_easy_vqa(arguments.easy_vqa_folder), arguments.max_images)
        if name == "easy_vqa"
        else load_tables(name, arguments, training)
        for name in names
    }
