"""Loader of CIFAR-100 from the original archive, a folder or the Hugging Face Hub."""

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
    """Load CIFAR-100 with one row per image.

    The source is one of

    - the original archive `cifar-100-python.tar.gz`, the extracted folder `cifar-100-python`, or the parent of this
      folder. The files are pickles, which can execute arbitrary code, so they are opened only if their MD5 checksums
      match the original.
    - another folder or a Hub id, loaded by `datasets.load_dataset`. Its tables need a column `img` or `image`, and a
      column `fine_label` or `label`. The splits train, validation and test are used.

    Without a split "validation", a stratified random sample of the training images becomes the validation split.
    Duplicate training images (about twenty) stay in "train". Training images that also occur in another split are
    dropped with a warning, so the splits are disjoint.

    Args:
        path_or_hub_id: Archive, folder or Hub id.
        num_validation: Number of validation images to take from "train", or 0 for no validation split. Ignored if the
            source has a split "validation".
        seed: Seed of the validation sample. The same images and seed give the same splits.

    Returns:
        A `DatasetDict` whose tables have the columns `image`, `label` (one of 100 classes) and `image_id` (a string).

    Raises:
        FileNotFoundError: If the data set does not exist, or the folder `cifar-100-python` lacks a file.
        ValueError: If the archive or a file of the folder differs from the original, a table lacks a column or an
            image, a table has other classes, the split "train" is missing, or `num_validation` is negative or does not
            leave any training images.

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
    """Return the folder `cifar-100-python` if the path is this folder or its parent, or `None` otherwise."""
    candidates = (path.absolute(), path / CIFAR100.base_folder)
    return next((folder for folder in candidates if folder.name == CIFAR100.base_folder and folder.is_dir()), None)


def _from_archive(path: Path) -> dict[str, Dataset]:
    if not check_integrity(path, CIFAR100.tgz_md5):
        raise ValueError(
            f"{path} was not opened, because its MD5 checksum differs from the original {CIFAR100.filename}. "
            f"Download it again from {CIFAR100.url}."
        )
    with tempfile.TemporaryDirectory() as folder:
        extract_archive(str(path), folder)
        return _from_folder(Path(folder) / CIFAR100.base_folder)


def _from_folder(folder: Path) -> dict[str, Dataset]:
    """Load the splits "train" and "test" from a folder `cifar-100-python`."""
    tables = {}
    for split, is_train in (("train", True), ("test", False)):
        try:
            original = CIFAR100(folder.parent, train=is_train)  # verifies the MD5 checksums before reading
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
    checksums = dict([*CIFAR100.train_list, *CIFAR100.test_list, (CIFAR100.meta["filename"], CIFAR100.meta["md5"])])
    advice = f"Download {CIFAR100.url} again and extract it."
    missing = [name for name in checksums if not (folder / name).is_file()]
    if missing:
        return FileNotFoundError(f"{folder} lacks {' and '.join(missing)}. {advice}")
    damaged = [name for name, md5 in checksums.items() if not check_integrity(folder / name, md5)]
    return ValueError(
        f"{folder} was not opened, because the MD5 checksum of {' and '.join(damaged)} differs from the original. "
        f"{advice}"
    )


def _from_datasets(source: str) -> dict[str, Dataset]:
    """Load the splits with `datasets.load_dataset`."""
    try:
        tables = load_dataset(source)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{source} is neither a local folder or archive of CIFAR-100 nor a data set on the Hub: {error}"
        ) from error
    if "train" not in tables:
        raise ValueError(f"{source} must have the split train, but got {', '.join(tables)}.")
    return {split: _unify_columns(tables[split], split, source) for split in _SPLITS if split in tables}


def _unify_columns(table: Dataset, split: str, source: str) -> Dataset:
    """Rename and cast the columns of a table to `image`, `label` and `image_id`."""
    found = {
        "image": next((name for name in ("img", "image") if name in table.column_names), None),
        "label": next((name for name in ("fine_label", "label") if name in table.column_names), None),
    }
    if None in found.values():
        raise ValueError(
            f"{source}, split {split}: the table must have a column img or image, and a column fine_label or label, "
            f"but got {', '.join(table.column_names)}. Rename the columns."
        )
    table = table.select_columns(list(found.values()))
    table = table.rename_columns({name: new for new, name in found.items() if name != new})
    label = table.features["label"]
    if isinstance(label, ClassLabel) and tuple(label.names) != CIFAR100_CLASSES:
        raise ValueError(
            f"{source}, split {split}: the column fine_label or label must have the 100 classes of CIFAR-100, but got "
            f"{', '.join(label.names[:3])}, ... ({label.num_classes})."
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
            f"`num_validation` must be from 0 to {min(len(once), len(table) - 1)}, but got {num_validation}. The split "
            f"train has {len(table)} images, {len(once)} of them without duplicates."
        )
    rows = _stratified(table["label"][:], once, num_validation, seed)
    others = np.setdiff1d(np.arange(len(table)), rows)
    return {"train": table.select(others), "validation": table.select(rows)}


def _drop_held_out(tables: Mapping[str, Dataset], source: str) -> Dataset:
    """Drop training images that also occur in another split."""
    splits = [split for split in tables if split != "train"]
    held_out = {image_hash for split in splits for image_hash in _pixel_hashes(tables[split], split)}
    hashes = _pixel_hashes(tables["train"], "train")
    rows = [row for row, image_hash in enumerate(hashes) if image_hash not in held_out]
    shared = len(tables["train"]) - len(rows)
    if not shared:
        return tables["train"]
    warnings.warn(f"Dropped {shared} training images of {source} that also occur in another split.", stacklevel=3)
    return tables["train"].select(rows)


def _pixel_hashes(table: Dataset, split: str) -> list[bytes]:
    """Return a hash of the encoded bytes of each image. Equal images of one source have equal bytes."""
    hashes = []
    for row, encoded in enumerate(table.cast_column("image", Image(decode=False))["image"]):
        if encoded is None:
            raise ValueError(f"Split {split}, row {row}: the image is missing. Drop rows without images.")
        content = Path(encoded["path"]).read_bytes() if encoded["bytes"] is None else encoded["bytes"]
        hashes.append(hashlib.blake2b(content).digest())
    return hashes


def _stratified(labels: Sequence[int], rows: Sequence[int], num_drawn: int, seed: int) -> np.ndarray:
    """Draw a stratified random sample of the rows, and return it in ascending order."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(rows)
    classes = np.asarray(labels)[shuffled]
    by_class = np.argsort(classes, kind="stable")
    _, first, counts = np.unique(classes[by_class], return_index=True, return_counts=True)
    # The k-th of n rows of a class has the position (k + 1/2) / n. Taking the lowest positions of all classes gives
    # each class its share, up to rounding.
    rank = np.arange(len(rows)) - np.repeat(first, counts)
    positions = (rank + 0.5) / np.bincount(labels)[classes[by_class]]
    drawn = np.lexsort((rng.random(len(rows)), positions))[:num_drawn]
    return np.sort(shuffled[by_class[drawn]])
