"""CIFAR-100, from the hub, a folder or the original archive, as tables of one row per image."""

import hashlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset
from PIL import Image as PILImage
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import check_integrity, extract_archive

from vlmkit.cifar100_classes import CIFAR100_CLASSES

_SPLITS = ("train", "validation", "test")
_FEATURES = Features({"image": Image(), "label": ClassLabel(names=list(CIFAR100_CLASSES)), "image_id": Value("string")})


def load_cifar100(
    path_or_hub_id: str | Path = "uoft-cs/cifar100", *, num_validation: int = 5000, seed: int = 0
) -> DatasetDict:
    """Load CIFAR-100 as one row per image: `image`, `label` (one of 100 classes) and `image_id`, a string.

    What is loaded is one of

    - the original archive `cifar-100-python.tar.gz`, the folder `cifar-100-python` that it holds, or that folder's
      parent. They hold pickles, which can run any code: only files whose MD5 sums are those of the original are opened;
    - a hub id or a folder that `datasets.load_dataset` reads, with the columns `img` or `image`, and `fine_label` or
      `label`. Of its splits, train, validation and test are taken.

    If there is no split "validation", images of "train" become it, as many of each class as their share allows. Images
    that occur more than once in "train", as some twenty do, stay there. A training image that is in another split, too,
    is dropped, and a warning counts them: the splits share no image.

    Args:
        path_or_hub_id: where the data are.
        num_validation: images to take from "train" if there is no split "validation"; none with 0. Not used otherwise.
        seed: of that draw; the same images and seed give the same splits.

    Raises:
        FileNotFoundError: there is no data set, or a folder `cifar-100-python` lacks a file.
        ValueError: the archive or a file of the folder is not the original (truncated, damaged or changed); a table
            lacks a column or an image, or has other classes; there is no split "train"; or `num_validation` is negative
            or leaves nothing to train on.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), chapter 3.

    Example:
        >>> import PIL.Image, tempfile
        >>> directory = tempfile.TemporaryDirectory()
        >>> images = [PIL.Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in range(200)]
        >>> columns = {"img": images, "fine_label": [row % 100 for row in range(200)]}
        >>> features = Features({"img": Image(), "fine_label": ClassLabel(names=list(CIFAR100_CLASSES))})
        >>> _ = Dataset.from_dict(columns, features).to_parquet(f"{directory.name}/train.parquet")
        >>> tables = load_cifar100(directory.name, num_validation=100)
        >>> tables.num_rows, tables["train"].column_names
        ({'train': 100, 'validation': 100}, ['image', 'label', 'image_id'])
    """
    path = Path(path_or_hub_id).expanduser()
    folder = _original_folder(path)
    if path.is_file():
        tables = _from_archive(path)
    elif folder is not None:
        tables = _from_folder(folder)
    else:
        tables = _from_datasets(str(path))
    if "validation" not in tables and num_validation != 0:
        tables |= _split_off_validation(tables["train"], num_validation, seed)
    tables["train"] = _drop_held_out(tables, path.name)
    return DatasetDict({split: tables[split] for split in _SPLITS if split in tables})


def _original_folder(path: Path) -> Path | None:
    """The folder `cifar-100-python`, if that is what the path names or contains."""
    candidates = (path.absolute(), path / CIFAR100.base_folder)
    return next((folder for folder in candidates if folder.name == CIFAR100.base_folder and folder.is_dir()), None)


def _from_archive(path: Path) -> dict[str, Dataset]:
    if not check_integrity(path, CIFAR100.tgz_md5):
        raise ValueError(
            f"{path} is not the original {CIFAR100.filename} (its MD5 sum is another), so it was not opened; "
            f"download it again from {CIFAR100.url}"
        )
    with tempfile.TemporaryDirectory() as folder:
        extract_archive(str(path), folder)
        return _from_folder(Path(folder) / CIFAR100.base_folder)


def _from_folder(folder: Path) -> dict[str, Dataset]:
    """The two splits of a folder `cifar-100-python`."""
    tables = {}
    for split, is_train in (("train", True), ("test", False)):
        try:
            original = CIFAR100(folder.parent, train=is_train)  # compares the MD5 sums before it reads
        except RuntimeError as error:
            raise _explain_integrity_error(folder) from error
        columns = {
            "image": [PILImage.fromarray(pixels) for pixels in original.data],
            "label": original.targets,
            "image_id": _image_ids(split, len(original)),
        }
        tables[split] = Dataset.from_dict(columns, _FEATURES)
    return tables


def _explain_integrity_error(folder: Path) -> Exception:
    """Return the error that explains why torchvision cannot load a folder."""
    sums = dict([*CIFAR100.train_list, *CIFAR100.test_list, (CIFAR100.meta["filename"], CIFAR100.meta["md5"])])
    advice = f"download {CIFAR100.url} again and extract it"
    missing = [name for name in sums if not (folder / name).is_file()]
    if missing:
        return FileNotFoundError(f"{folder} lacks {' and '.join(missing)}; {advice}")
    damaged = [name for name, md5 in sums.items() if not check_integrity(folder / name, md5)]
    return ValueError(
        f"{folder}: {' and '.join(damaged)} not as in the original (another MD5 sum), so it was not opened; {advice}"
    )


def _from_datasets(source: str) -> dict[str, Dataset]:
    """The splits of anything that `datasets.load_dataset` reads."""
    try:
        tables = load_dataset(source)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"there is no CIFAR-100 at {source}, neither as a folder or archive on this machine nor on the hub: {error}"
        ) from error
    if "train" not in tables:
        raise ValueError(f"{source} has the splits {', '.join(tables)}; it needs train")
    return {split: _unify_columns(tables[split], split, source) for split in _SPLITS if split in tables}


def _unify_columns(table: Dataset, split: str, source: str) -> Dataset:
    """Rename and cast the columns of a table to `image`, `label` and `image_id`."""
    found = {
        "image": next((name for name in ("img", "image") if name in table.column_names), None),
        "label": next((name for name in ("fine_label", "label") if name in table.column_names), None),
    }
    if None in found.values():
        raise ValueError(
            f"{source}, split {split} has the columns {', '.join(table.column_names)}; it needs img or image, and "
            "fine_label or label"
        )
    table = table.select_columns(list(found.values()))
    table = table.rename_columns({name: new for new, name in found.items() if name != new})
    label = table.features["label"]
    if isinstance(label, ClassLabel) and tuple(label.names) != CIFAR100_CLASSES:
        raise ValueError(
            f"{source}, split {split}: the classes {', '.join(label.names[:3])}, ... ({label.num_classes}) are not the "
            "100 of CIFAR-100; they are read from fine_label or label"
        )
    for name in ("image", "label"):
        if table.features[name] != _FEATURES[name]:
            table = table.cast_column(name, _FEATURES[name])
    return table.add_column("image_id", _image_ids(split, len(table)), feature=_FEATURES["image_id"])


def _image_ids(split: str, num_images: int) -> list[str]:
    return [f"cifar100-{split}-{row:05}" for row in range(num_images)]


def _split_off_validation(table: Dataset, num_validation: int, seed: int) -> dict[str, Dataset]:
    """Split the training images into training and validation images."""
    hashes = _pixel_hashes(table, "train")
    counts = Counter(hashes)
    once = [row for row, image_hash in enumerate(hashes) if counts[image_hash] == 1]
    if not 0 < num_validation <= len(once) or num_validation == len(table):
        raise ValueError(
            f"num_validation is {num_validation}; it must be at least 0 and leave images to train on, of "
            f"{len(table)} ({len(once)} of which occur once)"
        )
    rows = _stratified(table["label"][:], once, num_validation, seed)
    others = np.setdiff1d(np.arange(len(table)), rows)
    return {"train": table.select(others), "validation": table.select(rows)}


def _drop_held_out(tables: Mapping[str, Dataset], source: str) -> Dataset:
    """Return the training images without those that are in another split."""
    splits = [split for split in tables if split != "train"]
    held_out = {image_hash for split in splits for image_hash in _pixel_hashes(tables[split], split)}
    hashes = _pixel_hashes(tables["train"], "train")
    rows = [row for row, image_hash in enumerate(hashes) if image_hash not in held_out]
    shared = len(tables["train"]) - len(rows)
    if not shared:
        return tables["train"]
    warnings.warn(f"{source}: dropped {shared} training images that are in another split, too", stacklevel=3)
    return tables["train"].select(rows)


def _pixel_hashes(table: Dataset, split: str) -> list[bytes]:
    """Return a hash of each image as it is stored; equal images of one source are stored alike."""
    hashes = []
    for row, encoded in enumerate(table.cast_column("image", Image(decode=False))["image"]):
        if encoded is None:
            raise ValueError(f"split {split}, row {row} has no image; drop such rows")
        content = Path(encoded["path"]).read_bytes() if encoded["bytes"] is None else encoded["bytes"]
        hashes.append(hashlib.blake2b(content).digest())
    return hashes


def _stratified(labels: Sequence[int], rows: Sequence[int], num_drawn: int, seed: int) -> np.ndarray:
    """Draw rows at random such that each class has its share of them, up to rounding; in ascending order."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(rows)
    classes = np.asarray(labels)[shuffled]
    by_class = np.argsort(classes, kind="stable")
    _, first, counts = np.unique(classes[by_class], return_index=True, return_counts=True)
    # The k-th row drawn of a class of n stands at (k + 1/2) / n; drawing from below treats all classes alike.
    rank = np.arange(len(rows)) - np.repeat(first, counts)
    positions = (rank + 0.5) / np.bincount(labels)[classes[by_class]]
    drawn = np.lexsort((rng.random(len(rows)), positions))[:num_drawn]
    return np.sort(shuffled[by_class[drawn]])
