"""Readers of shards of web-scale image-text data: tar archives or folders of files."""

import glob
import os
import re
from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

from vlmkit.data.sources.faults import Faults
from vlmkit.data.sources.tar_stream import read_tar_files

IMAGE_SUFFIXES = frozenset({"bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"})
_SUFFIXES = IMAGE_SUFFIXES | {"txt", "json"}
_TAR_SUFFIX = re.compile(r"\.(tar(\.(gz|bz2|xz))?|tgz)\Z", re.IGNORECASE)


class Sample(NamedTuple):
    """Files of one sample, which share the name before the first dot.

    `files` maps the lower-case suffix of each file to its content.
    """

    key: str
    files: dict[str, bytes]


def find_shards(source: str | Path) -> list[Path]:
    """List the shards of a data set.

    Args:
        source: One of

            - a tar file or a folder of images, which is a single shard.
            - a folder of tar files, or a folder of folders. Names that start with "_" or "." are ignored.
            - a pattern of these with wildcards or braces, such as `shards/{00000..00009}.tar`, `{cc3m,sbu}/*.tar` or
              `cc3m/0000?`.

    Returns:
        Absolute paths, sorted by name. Paths of a pattern with braces are in the order of the braces.

    Raises:
        FileNotFoundError: If `source` does not contain any shards, or a shard in braces does not exist.
        ValueError: If two shards have the same name, without the suffix, in folders of the same name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in range(3):
        ...         _ = (Path(folder) / f"{number:05}.tar").write_bytes(b"")
        ...     [path.name for path in find_shards(f"{folder}/{{00000..00001}}.tar")]
        ['00000.tar', '00001.tar']
    """
    path = Path(source).expanduser()
    if path.is_dir():
        shards = _shards_in(path)
    elif path.exists():
        shards = [path]
    else:
        shards = list(chain.from_iterable(map(_matches, _expand_braces(str(path)))))
    if not shards:
        raise FileNotFoundError(
            f"{source} does not contain any shards. Expected .tar files, or folders with images and captions, such as "
            "00000/000000000.jpg and 00000/000000000.txt. Load Parquet files with `datasets.load_dataset`."
        )
    shards = [shard.resolve() for shard in shards]
    by_name = {shard_name(shard): shard for shard in shards}
    for shard in shards:
        other = by_name[shard_name(shard)]
        if other != shard:
            raise ValueError(
                f"Shards must have different names, but {shard} and {other} would give their images the same ids. "
                "Rename one of the shards or its folder."
            )
    return list(by_name.values())


def shard_name(shard: Path) -> str:
    """Return the name of a shard with the name of its folder, which is the prefix of `image_id`.

    The suffix of an archive is removed.

    Example:
        >>> shard_name(Path("data/cc3m/train.00000.tar"))
        'cc3m/train.00000'
    """
    return f"{shard.parent.name}/{_TAR_SUFFIX.sub('', shard.name)}"


def _shards_in(folder: Path) -> list[Path]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(("_", "."))]
    tars = [entry for entry in entries if _is_tar(entry)]
    if tars:
        return tars
    is_shard = any(entry.suffix[1:].lower() in IMAGE_SUFFIXES for entry in entries)
    return [folder] if is_shard else [entry for entry in entries if entry.is_dir()]


def _is_tar(path: Path) -> bool:
    return _TAR_SUFFIX.search(path.name) is not None and path.is_file()


def _matches(pattern: str) -> list[Path]:
    """Return the shards that match a pattern without braces."""
    if glob.has_magic(pattern):
        return [path for path in map(Path, sorted(glob.glob(pattern))) if path.is_dir() or _is_tar(path)]
    if not Path(pattern).exists():
        raise FileNotFoundError(f"The shard {pattern} does not exist. Check the pattern.")
    return [Path(pattern)]


def _expand_braces(pattern: str) -> list[str]:
    """Expand `{00..10}` and `{a,b}`."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    options = braces[1].split(",")
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    if ends is not None:
        options = [str(number).zfill(len(ends[1])) for number in range(int(ends[1]), int(ends[2]) + 1)]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [full for option in options for full in _expand_braces(before + option + after)]


def read_samples(shard: Path, faults: Faults) -> Iterator[Sample]:
    """Yield the samples of a shard without validating them.

    Args:
        shard: Folder or tar archive, compressed or not. In an archive, the files of a sample must be adjacent.
        faults: Handler of corrupt archives and unreadable files.
    """
    files = _folder_files(shard, faults) if shard.is_dir() else read_tar_files(shard, wanted=_is_wanted, faults=faults)
    for key, group in groupby(files, key=lambda file: _key_and_suffix(file[0])[0]):
        yield Sample(key, {_key_and_suffix(name)[1]: content for name, content in group})


def _folder_files(folder: Path, faults: Faults) -> Iterator[tuple[str, bytes]]:
    names = set(os.listdir(folder))
    for name in sorted(filter(_is_wanted, names)):
        if name.endswith(".json") and f"{name[:-5]}.txt" in names:  # the caption is read from the .txt
            continue
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            faults.add("unreadable file", f"{folder / name} cannot be read: {error}.")
        else:
            yield os.fsencode(name).decode("utf-8", "backslashreplace"), content


def _is_wanted(name: str) -> bool:
    """Return whether a file is part of a sample. Hidden files and files with other suffixes are not."""
    key, suffix = _key_and_suffix(name)
    return suffix in _SUFFIXES and os.path.basename(key) != ""


def _key_and_suffix(name: str) -> tuple[str, str]:
    """Split a path at the first dot of the file name, for example "./a/b.JPG" into "a/b" and "jpg"."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()
