"""Data loading for the scripts of stage 2: captions and questions as conversations."""

from dataclasses import dataclass, field

from caption_sources import CAPTIONED, SourceArguments, Tables, check_source, load_tables

from vlmkit.data import CHAT_TASKS, load_easy_vqa, take_rows

DATASETS = (*CAPTIONED, "easy_vqa", "scenes")


@dataclass
class ChatDataArguments(SourceArguments):
    """Datasets and tasks of the conversations."""

    datasets: list[str] = field(
        default_factory=lambda: ["scenes"],
        metadata={
            "help": f"Datasets: one or more of {', '.join(DATASETS)}, or web alone. 'scenes' are synthetic and require "
            "no --data."
        },
    )
    easy_vqa_folder: str | None = field(
        default=None, metadata={"help": "Folder of easy-VQA, if it is not installed with pip install easy-vqa."}
    )
    tasks: list[str] = field(
        default_factory=lambda: list(CHAT_TASKS),
        metadata={"help": "Tasks: captions, questions or both. Each dataset is used for the tasks that it supports."},
    )
    max_turns: int = field(default=5, metadata={"help": "Maximum number of questions per conversation."})


def load_chat_tables(arguments: ChatDataArguments, training: bool = True) -> dict[str, Tables]:
    """Load the splits of every selected dataset, by name.

    Args:
        arguments: Data arguments of the script.
        training: Require a training split in addition to an evaluation split.

    Raises:
        SystemExit: If a task or dataset is unknown or repeated, or its data or splits are missing.
    """
    names = arguments.datasets
    if not arguments.tasks or not set(arguments.tasks) <= set(CHAT_TASKS):
        raise SystemExit(f"`--tasks` must be captions, questions or both, but got '{' '.join(arguments.tasks)}'.")
    known = names == ["web"] or set(names) <= set(DATASETS)
    if not names or len(set(names)) < len(names) or not known:
        raise SystemExit(
            f"`--datasets` must be one or more of {', '.join(DATASETS)} without repetitions, or web alone, but got "
            f"'{' '.join(names)}'."
        )
    check_source(names, arguments)
    return {
        name: take_rows(load_easy_vqa(arguments.easy_vqa_folder), arguments.max_images)
        if name == "easy_vqa"
        else load_tables(name, arguments, training)
        for name in names
    }
