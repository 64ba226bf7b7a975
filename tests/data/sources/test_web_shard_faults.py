"""Broken samples and shards are reported, left out and counted, and the rest is read."""

import logging
import random
import tarfile
import warnings
from pathlib import Path

import datasets
import pytest
from PIL import Image
from tests.data.sources.flickr8k_folders import jpeg
from tests.data.sources.web_shard_folders import (
    IDS,
    NUM_SHARDS,
    ROWS,
    encoded,
    ids,
    key,
    sample_files,
    shard_files,
    write_folder,
    write_tar,
)

from vlmkit.data import stream_image_text

SECOND = key(0, 1)
# What becomes of the files of the second sample, what the message says, and how the fault is counted.
FAULTS = {
    "image": ({"jpg": b"no image"}, "the image cannot be decoded: UnidentifiedImageError", "undecodable image"),
    "truncated image": ({"jpg": jpeg()[:-100]}, "the image cannot be decoded: OSError", "undecodable image"),
    "no image": ({"jpg": None}, "the sample does not have an image", "caption without image"),
    "two images": ({"png": encoded("PNG")}, r"the sample has several images, \.jpg and \.png", "several images"),
    "no caption": (
        {"txt": None, "json": None},
        r"the sample has neither a \.txt nor a \.json",
        "image without caption",
    ),
    "no caption in the JSON": (
        {"txt": None, "json": b'{"caption": null}'},
        "a string 'caption'",
        "image without caption",
    ),
    "JSON is a list": ({"txt": None, "json": b"[1]"}, "a string 'caption'", "image without caption"),
    "empty caption": ({"txt": b" \n"}, "the caption is empty", "empty caption"),
    "not UTF-8": ({"txt": b"caf\xe9"}, r"the \.txt is not UTF-8", "text not in UTF-8"),
    "JSON not UTF-8": ({"txt": None, "json": b"\xe9"}, r"the \.json is not UTF-8", "text not in UTF-8"),
    "malformed JSON": ({"txt": None, "json": b"{"}, r"the \.json is malformed", "malformed JSON"),
    "deep JSON": ({"txt": None, "json": b"[" * 100_000}, r"the \.json is malformed", "malformed JSON"),
}


def damaged(changes: dict[str, bytes | None]) -> dict[str, bytes]:
    """The files of the first shard, in order."""
    changed = {f"{SECOND}.{suffix}": content for suffix, content in changes.items()}
    second = {name: content for name, content in {**sample_files(0, 1), **changed}.items() if content is not None}
    return {**sample_files(0, 0), **second, **sample_files(0, 2), **sample_files(0, 3)}


@pytest.mark.parametrize("layout", ["tar", "folder"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_sample(tmp_path, caplog, layout, name):
    changes, message, kind = FAULTS[name]
    shard = tmp_path / "cc3m" / "00000"
    if layout == "tar":
        shard = shard.with_suffix(".tar")
        write_tar(shard, damaged(changes))
    else:
        write_folder(shard, damaged(changes))
    with pytest.raises(ValueError, match=rf"{shard}, sample {SECOND}: .*{message}.*on_error=.skip.`\.$"):
        ids(stream_image_text(shard))
    with (
        caplog.at_level(logging.INFO, "vlmkit"),
        pytest.warns(UserWarning, match=rf"Dropped invalid data of {shard}: {kind} \(1\)\.$") as caught,
    ):
        assert ids(stream_image_text(shard, on_error="skip")) == [IDS[0], *IDS[2:ROWS]]
    assert len(caught) == 1
    assert f"{shard}, sample {SECOND}: " in caplog.text


def test_each_shard_is_counted_by_itself(tars):
    for shard in (0, 2):
        write_tar(tars / f"{shard:05}.tar", shard_files(shard) | {f"{key(shard, 0)}.txt": b""})
    with pytest.warns(UserWarning, match=r"empty caption \(1\)\.$") as caught:
        assert len(ids(stream_image_text(tars, on_error="skip"))) == NUM_SHARDS * ROWS - 2
    assert [str(warning.message).partition(": ")[0] for warning in caught] == [
        f"Dropped invalid data of {tars / '00000.tar'}",
        f"Dropped invalid data of {tars / '00002.tar'}",
    ]


def test_sound_shards_warn_of_nothing(source):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids(stream_image_text(source, on_error="skip")) == IDS


def test_an_unreadable_file(tmp_path):
    write_folder(tmp_path / "00000", {"a.jpg": jpeg(), "b.jpg": jpeg(), "b.txt": b"a dog"})
    (tmp_path / "00000" / "a.txt").mkdir()
    with pytest.raises(ValueError, match=r"a\.txt cannot be read"):
        ids(stream_image_text(tmp_path / "00000"))
    with pytest.warns(UserWarning, match=r"unreadable file \(1\), image without caption \(1\)\.$"):
        assert len(ids(stream_image_text(tmp_path / "00000", on_error="skip"))) == 1


def header_of(path: Path, name: str) -> int:
    with tarfile.open(path) as tar:
        return tar.getmember(name).offset


@pytest.mark.parametrize("row", range(ROWS))
def test_a_broken_header_costs_its_file_only(tars, row):
    path = tars / "00000.tar"
    content = bytearray(path.read_bytes())
    content[header_of(path, f"{key(0, row)}.jpg") + 20] ^= 0xFF
    path.write_bytes(content)
    after = f"{key(0, row - 1)}.json" if row else "the start"
    with pytest.raises(ValueError, match=rf"00000\.tar, after {after}: the header of the next file is corrupt"):
        ids(stream_image_text(path))
    with pytest.warns(UserWarning, match=r"corrupt tar header \(1\), caption without image \(1\)\.$"):
        assert ids(stream_image_text(path, on_error="skip")) == [*IDS[:row], *IDS[row + 1 : ROWS]]


@pytest.mark.parametrize(
    ("place", "rows", "counted"),
    [
        ("within the image", 2, r"truncated tar \(1\)\.$"),
        ("within the header", 2, r"truncated tar \(1\)\.$"),
        ("before the header", 2, r"truncated tar \(1\)\.$"),
        ("before the text", 2, r"truncated tar \(1\), image without caption \(1\)\.$"),
    ],
)
def test_a_truncated_tar(tars, place, rows, counted):
    path = tars / "00000.tar"
    image, text = (header_of(path, f"{key(0, 2)}.{suffix}") for suffix in ("jpg", "txt"))
    ends = {
        "within the image": image + 600,
        "within the header": image + 100,
        "before the header": image,
        "before the text": text,
    }
    path.write_bytes(path.read_bytes()[: ends[place]])
    with pytest.raises(ValueError, match=r"00000\.tar(, after| is corrupt at or after) .*\. Correct it"):
        ids(stream_image_text(path))
    with pytest.warns(UserWarning, match=counted):
        assert ids(stream_image_text(path, on_error="skip")) == IDS[:rows]


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("kind", ["truncated", "broken"])
def test_a_damaged_compressed_tar(tmp_path, compression, kind):
    path = tmp_path / "cc3m" / f"00000.tar.{compression}"
    write_tar(path, shard_files(0), f"w:{compression}")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle:] = b"" if kind == "truncated" else bytes(byte ^ 0xFF for byte in content[middle:])
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"(truncated|unreadable) tar \(1\)"):
        assert len(ids(stream_image_text(path, on_error="skip"))) < ROWS


@pytest.mark.parametrize("content", [b"", b"no tar", b"x" * 5000, b"\x1f\x8b" + b"x" * 600])
def test_a_file_that_is_no_tar(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.warns(UserWarning, match=r"(unreadable tar|corrupt tar header|truncated tar) \(1\)"):
        assert ids(stream_image_text(tmp_path / "a.tar", on_error="skip")) == []


@pytest.mark.parametrize("layout", ["tar", "tar.gz"])
def test_no_damage_stops_a_stream(tmp_path, layout):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = shard_files(0)
    for row in range(ROWS):
        files[f"{key(0, row)}.jpg"] = encoded("JPEG", exif=exif)
    path = tmp_path / "cc3m" / f"00000.{layout}"
    write_tar(path, files, "w:gz" if layout == "tar.gz" else "w")
    sound, draw = path.read_bytes(), random.Random(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(60):
            content = bytearray(sound)
            for _ in range(draw.randint(1, 20)):
                content[draw.randrange(len(content))] = draw.randrange(256)
            path.write_bytes(content)
            assert len(ids(stream_image_text(path, on_error="skip"))) <= ROWS


def test_a_shard_that_vanished(tars):
    stream = stream_image_text(tars, on_error="skip")
    (tars / "00001.tar").unlink()
    with pytest.warns(UserWarning, match=r"unreadable tar \(1\)"):
        assert ids(stream) == IDS[:ROWS] + IDS[2 * ROWS :]


def test_the_reader_of_datasets_would_stop_or_be_silent(tars):
    """Why there is a reader of our own; once this fails, there need not be."""
    path = tars / "00000.tar"
    content = bytearray(path.read_bytes())
    content[header_of(path, f"{key(0, 1)}.jpg") + 20] ^= 0xFF
    path.write_bytes(content)
    theirs = datasets.load_dataset("webdataset", data_files=str(path), split="train", streaming=True)
    assert len(list(theirs)) == 1  # of four, one of which is broken
