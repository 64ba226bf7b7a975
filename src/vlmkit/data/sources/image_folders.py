"""Utilities for local image files and folders."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from vlmkit.images import rgb_images

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def find_image_files(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """List image files, including those in folders.

    Args:
        paths: Files and folders. A folder contributes its files with the suffix .jpg, .jpeg, .png, .bmp or .webp,
            sorted by name. Its subfolders are not searched.

    Returns:
        The paths in the order of `paths`. Files that are passed directly may have any suffix.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If `paths` do not contain any image files.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.JPG", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [file.name for file in find_image_files([folder])]
        ['a.JPG', 'b.png']
    """
    given, files = [Path(path) for path in paths], []
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist. Pass image files or folders.")
        if path.is_file():
            files.append(path)
        else:
            files += sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        where = ", ".join(map(str, given)) or "an empty list"
        raise ValueError(
            f"`paths` must contain at least one image, but got {where}. Files in folders must end in one of "
            f"{', '.join(sorted(_SUFFIXES))}."
        )
    return files


def decodable_image_files(files: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Separate image files that can be decoded from corrupt files.

    Args:
        files: Paths of image files, such as those from [`find_image_files`].

    Returns:
        The list of decodable files, and a dictionary from each corrupt file to the reason.

    Raises:
        ValueError: If none of the files can be decoded.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     good, corrupt = Path(folder, "good.png"), Path(folder, "corrupt.png")
        ...     Image.new("RGB", (8, 8)).save(good)
        ...     _ = corrupt.write_bytes(b"not an image")
        ...     files, errors = decodable_image_files([good, corrupt])
        >>> [file.name for file in files], [file.name for file in errors]
        (['good.png'], ['corrupt.png'])
    """
    decodable, errors = [], {}
    for file in files:
        try:
            with Image.open(file) as image:
                image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            errors[file] = f"{type(error).__name__}: {error}"
        else:
            decodable.append(file)
    if not decodable:
        reasons = "; ".join(f"{file}: {reason}" for file, reason in list(errors.items())[:3])
        raise ValueError(f"None of the {len(files)} images can be decoded ({reasons}).")
    return decodable, errors


def thumbnail(file: str | os.PathLike, side: int = 320) -> Image.Image:
    """Load a small RGB copy of an image file.

    Args:
        file: Path of the image file.
        side: Maximum length of the longer side in pixels. Larger images are scaled down, and smaller ones keep their
            size.

    Returns:
        An image with the proportions of the file.

    Raises:
        FileNotFoundError: If the file does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (640, 480)).save(f"{folder}/photo.png")
        ...     thumbnail(f"{folder}/photo.png", side=64).size
        (64, 48)
    """
    small = rgb_images(os.fspath(file))
    small.thumbnail((side, side))
    return small
