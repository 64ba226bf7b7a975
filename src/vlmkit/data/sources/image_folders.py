"""A user's own images: files, and folders of them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from vlmkit.images import rgb_images

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def find_image_files(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """List the given files, and the image files of the given folders in the order of their names.

    Args:
        paths: Files with any name, and folders, of which the files that end in .jpg, .jpeg, .png, .bmp or .webp count.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there is no image.
    """
    given, files = [Path(path) for path in paths], []
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give image files or folders of them")
        if path.is_file():
            files.append(path)
        else:
            files += sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        where = ", ".join(map(str, given)) or "an empty list"
        raise ValueError(f"no image in {where}; files must end in one of {', '.join(sorted(_SUFFIXES))}")
    return files


def decodable_image_files(files: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The files that can be decoded, and the reason for each that cannot.

    Args:
        files: image files.

    Raises:
        ValueError: none can be decoded.
    """
    good, broken = [], {}
    for file in files:
        try:
            with Image.open(file) as image:
                image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            broken[file] = f"{type(error).__name__}: {error}"
        else:
            good.append(file)
    if not good:
        reasons = "; ".join(f"{file}: {reason}" for file, reason in list(broken.items())[:3])
        raise ValueError(f"none of the {len(files)} images can be read ({reasons})")
    return good, broken


def thumbnail(file: str | os.PathLike, side: int = 320) -> Image.Image:
    """A small RGB copy of an image file, so that a page of photographs fits in memory.

    Args:
        file: the image.
        side: length of its longer side, in pixels, if it is longer.
    """
    small = rgb_images(os.fspath(file))
    small.thumbnail((side, side))
    return small
