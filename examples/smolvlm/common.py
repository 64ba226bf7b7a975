"""What the scripts share: data, and images from files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets import Dataset, DatasetDict
from PIL import Image as PILImage

from vlmkit.data import load_coco_captions, load_flickr8k, load_scenes
from vlmkit.images import rgb_images

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass
class DataArguments:
    """Which images and captions."""

    dataset: Literal["coco", "flickr8k", "scenes"] = field(
        default="scenes", metadata={"help": "scenes are drawn, and need no data"}
    )
    data: str | None = field(default=None, metadata={"help": "folder or hub id of coco or flickr8k"})
    image_folder: str | None = field(default=None, metadata={"help": "of the images, where --data is a captions file"})
    max_images: int | None = field(default=None, metadata={"help": "first images of each split"})
    on_error: Literal["raise", "skip"] = field(default="raise", metadata={"help": "what to do with faulty rows"})


def load_tables(arguments: DataArguments) -> DatasetDict:
    """The data set that was asked for, with a split to train on and one to score on.

    Raises:
        SystemExit: data and data set do not go together, or there is no such split.
    """
    if arguments.dataset == "scenes":
        if arguments.data is not None:
            raise SystemExit(
                f"--dataset scenes draws its images: drop --data {arguments.data}, or name the --dataset that it holds"
            )
        return first_rows(load_scenes(), arguments.max_images)
    if arguments.dataset == "flickr8k":
        return first_rows(load_flickr8k(arguments.data, on_error=arguments.on_error), arguments.max_images)
    if arguments.data is None:
        raise SystemExit("--dataset coco needs --data: a folder, a captions file or a hub id")
    tables = load_coco_captions(
        arguments.data, arguments.image_folder, max_images=arguments.max_images, on_error=arguments.on_error
    )
    if "train" not in tables or len(tables) == 1:
        raise SystemExit(f"{arguments.data} needs a split to train on and another to score on, not {', '.join(tables)}")
    return tables


def first_rows(tables: DatasetDict, count: int | None) -> DatasetDict:
    """The first rows of each split, or all."""
    if count is None:
        return tables
    return DatasetDict({name: table.select(range(min(count, len(table)))) for name, table in tables.items()})


def held_out(tables: DatasetDict) -> Dataset:
    """The test split, or of data sets without one (COCO) the validation split."""
    return tables["test"] if "test" in tables else tables["validation"]


def image_files(places: Sequence[str]) -> list[Path]:
    """Files, of whatever name, and the image files in folders, in the order of their names.

    Raises:
        SystemExit: a place does not exist, or there is no image at all.
    """
    files: list[Path] = []
    for place in map(Path, places):
        if not place.exists():
            raise SystemExit(f"{place} does not exist; give image files or folders of them")
        if place.is_file():
            files.append(place)
        else:
            files += sorted(file for file in place.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise SystemExit(
            f"no image in {', '.join(places)}; files must end in one of {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return files


def readable(files: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The files that can be decoded, and the reason for each that cannot."""
    good, broken = [], {}
    for file in files:
        try:
            with PILImage.open(file) as image:
                image.load()
        except (OSError, ValueError, SyntaxError, PILImage.DecompressionBombError) as error:
            broken[file] = f"{type(error).__name__}: {error}"
            print(f"skipped {file}: {broken[file]}")
        else:
            good.append(file)
    if not good:
        raise SystemExit(f"none of the {len(files)} images can be read")
    return good, broken


def thumbnail(file: Path, side: int = 320) -> PILImage.Image:
    """A small copy, so that a collage of photographs fits in memory."""
    small = rgb_images(str(file))
    small.thumbnail((side, side))
    return small
