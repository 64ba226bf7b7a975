"""Writes tiny shards as img2dataset does."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image
from tests.data.sources.flickr8k_folders import jpeg

NUM_SHARDS, ROWS = 3, 4  # of each shard


def key(shard: int, row: int) -> str:
    return f"{shard:05}{row:04}"


# In folders that are named cc3m.
IDS = [f"cc3m/{shard:05}/{key(shard, row)}" for shard in range(NUM_SHARDS) for row in range(ROWS)]


def ids(stream) -> list[str]:
    return [row["image_id"] for row in stream]


def caption(shard: int, row: int) -> str:
    return f'shard {shard} says "{row}", é'


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or Image.new("RGB", (8, 8))).save(buffer, kind, **options)
    return buffer.getvalue()


def sample_files(shard: int, row: int) -> dict[str, bytes]:
    """Image, caption and metadata of a sample, by the file's name."""
    content = {"key": key(shard, row), "caption": caption(shard, row), "status": "success"}
    return {
        f"{key(shard, row)}.jpg": jpeg(20 * shard + row),
        f"{key(shard, row)}.txt": caption(shard, row).encode(),
        f"{key(shard, row)}.json": json.dumps(content, indent=4).encode(),
    }


def shard_files(shard: int) -> dict[str, bytes]:
    return {name: content for row in range(ROWS) for name, content in sample_files(shard, row).items()}


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_folder(path: Path, files: dict[str, bytes]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)


def write_beside(folder: Path, shard: int) -> None:
    """What lies beside each shard, in both layouts."""
    (folder / f"{shard:05}.parquet").write_bytes(b"PAR1")
    (folder / f"{shard:05}_stats.json").write_text(json.dumps({"count": 10, "successes": ROWS}))


def write_tars(folder: Path) -> Path:
    for shard in range(NUM_SHARDS):
        write_tar(folder / f"{shard:05}.tar", shard_files(shard))
        write_beside(folder, shard)
    return folder


def write_folders(folder: Path) -> Path:
    for shard in range(NUM_SHARDS):
        write_folder(folder / f"{shard:05}", shard_files(shard))
        write_beside(folder, shard)
    (folder / "_tmp").mkdir()
    return folder
