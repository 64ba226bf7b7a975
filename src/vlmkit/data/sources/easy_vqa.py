"""Loader of easy-VQA from its Python package or a folder."""

import importlib.util
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, List, Value

from vlmkit.data.sources.faults import find_undecodable, get_file_state

_FEATURES = Features(
    {
        "image": Image(),
        "image_id": Value("string"),
        "questions": List(Value("string")),
        "answers": List(Value("string")),
    }
)


def load_easy_vqa(folder: str | Path | None = None) -> DatasetDict:
    """Load easy-VQA with one row per image.

    Each image has 64 x 64 pixels and shows one colored shape. Questions ask for the shape, for its color, or whether a
    shape or color is present or absent. Both splits have the same 107 questions, with 13 answers including yes and no.

    | split | images | questions |
    |---|---|---|
    | train | 4,000 | 38,575 |
    | test | 1,000 | 9,673 |

    The data set does not have a validation split. Create one with `tables["train"].train_test_split(0.1, seed=0)`.

    The function reads all questions and decodes all images once to validate them. Images are stored as paths, and
    replacing a file changes the fingerprint of the table. Images without questions are left out.

    Args:
        folder: Folder with `train/questions.json`, `train/images/0.png`, ..., and the same files in `test`, or the
            parent `data` of these. Defaults to the installed package (`pip install easy-vqa`, 3 MB, MIT license).

    Returns:
        A `DatasetDict` whose tables have the columns `image`, `image_id` (a string), and `questions` and `answers`
        (lists of strings of equal length).

    Raises:
        ImportError: If `folder` is `None` and the package is not installed.
        FileNotFoundError: If a questions file or an image is missing.
        ValueError: If a questions file is malformed or empty, or an image cannot be decoded.

    Example:
        >>> import tempfile, PIL.Image
        >>> directory = tempfile.TemporaryDirectory()
        >>> for split in ("train", "test"):
        ...     images = Path(directory.name, split, "images")
        ...     images.mkdir(parents=True)
        ...     PIL.Image.new("RGB", (64, 64)).save(images / "0.png")
        ...     questions = [["what color is the shape?", "black", 0], ["is there a red shape?", "no", 0]]
        ...     _ = (images.parent / "questions.json").write_text(json.dumps(questions))
        >>> row = load_easy_vqa(directory.name)["train"][0]
        >>> row["image_id"], row["questions"][1], row["answers"]
        ('easy-vqa-train-0', 'is there a red shape?', ['black', 'no'])
    """
    root = _package_folder() if folder is None else Path(folder).expanduser().resolve()
    if not (root / "train").is_dir() and (root / "data").is_dir():
        root /= "data"
    return DatasetDict({split: _read_split(root / split, split) for split in ("train", "test")})


def _package_folder() -> Path:
    """Return the folder of the package easy-vqa without importing it."""
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise ImportError(
            "easy-VQA is not installed. Run `pip install easy-vqa`, or pass the `folder` that contains train and test."
        )
    return Path(spec.origin).parent


def _read_split(folder: Path, split: str) -> Dataset:
    """Build the table of one split."""
    questions = _read_questions(folder / "questions.json")
    paths = [folder / "images" / f"{number}.png" for number in questions]
    columns = {
        "image": list(map(str, paths)),
        "image_id": [f"easy-vqa-{split}-{number}" for number in questions],
        "questions": [[question for question, _ in pairs] for pairs in questions.values()],
        "answers": [[answer for _, answer in pairs] for pairs in questions.values()],
        "state": _states(paths),
    }
    table = Dataset.from_dict(columns, Features(_FEATURES | {"state": Value("string")}), split=split)
    encoded = table.cast_column("image", Image(decode=False))["image"]
    for row, reason in find_undecodable(encoded, range(len(paths))).items():
        raise ValueError(f"The image {paths[row]} cannot be decoded: {reason}. Copy the data set again.")
    return table.remove_columns("state")  # the removed column still changes the fingerprint


def _read_questions(path: Path) -> dict[int, list[tuple[str, str]]]:
    """Return the pairs of question and answer of each image number, in the order of the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Pass the folder that contains train and test of easy-VQA.")
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Copy the data set again.") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} must contain a list of at least one question. Copy the data set again.")
    questions: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for number, entry in enumerate(entries, start=1):
        if not _is_question(entry):
            raise ValueError(
                f"{path}, entry {number}: the entry must be [question, answer, image number], but got {entry!r}. "
                "Correct it."
            )
        question, answer, image = entry
        questions[image].append((question, answer))
    return questions


def _is_question(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and [type(value) for value in entry] == [str, str, int]
        and all(text.strip() for text in entry[:2])
    )


def _states(paths: Sequence[Path]) -> list[str]:
    """Return the state of each image file, which changes if the file is replaced."""
    try:
        return [get_file_state(path) for path in paths]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"The image {error.filename} of a question does not exist. Copy it again.") from error
