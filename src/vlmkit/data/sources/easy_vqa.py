"""easy-VQA, from its package or a folder, as tables of one row per image."""

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
    """Load easy-VQA as one row per image: `image`, `image_id`, `questions` and `answers`, as many as questions.

    One coloured shape is drawn on each of 4,000 images to train and 1,000 to test, 64 x 64 pixels. 38,575 questions to
    train and 9,673 to test ask for the shape, its colour, and whether something is there or is not. There are 13
    answers, among them yes and no. Training and test ask the same 107 questions, of other images. The data set has no
    validation split; take some of the training images: `tables["train"].train_test_split(0.1, seed=0)`.

    All questions are read and all images decoded before the function returns. Images are stored as paths; a file that
    is replaced changes the table's fingerprint, so that caches keyed by it notice. An image without questions is left
    out.

    Args:
        folder: holds `train/questions.json`, the images `train/images/0.png`, ..., and the same in `test`; or a folder
            `data` with all of this. The installed package if not given (`pip install easy-vqa`, 3 MB, MIT licence).

    Raises:
        ImportError: no folder is given and the package is not installed.
        FileNotFoundError: a questions file or an image is absent.
        ValueError: a questions file is malformed or empty, or an image cannot be decoded.

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
    """Where the package easy-vqa lies; it is not run."""
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise ImportError(
            "easy-VQA is not installed: pip install easy-vqa, or give the folder that holds train and test"
        )
    return Path(spec.origin).parent


def _read_split(folder: Path, split: str) -> Dataset:
    """The table of one split."""
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
        raise ValueError(f"image {paths[row]} cannot be decoded: {reason}; copy the data set again")
    return table.remove_columns("state")  # having been a column, the state stays in the fingerprint


def _read_questions(path: Path) -> dict[int, list[tuple[str, str]]]:
    """The questions and answers by number of the image, in the order of the file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; give the folder that holds train and test of easy-VQA")
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); copy the data set again") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} is no list of questions, or an empty one; copy the data set again")
    questions: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for number, entry in enumerate(entries, start=1):
        if not _is_question(entry):
            raise ValueError(
                f"{path}, entry {number}: expected [question, answer, number of the image], found {entry!r}; correct it"
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
    """What changes if a file is replaced."""
    try:
        return [get_file_state(path) for path in paths]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image {error.filename} is absent, of which questions ask; copy it again") from error
