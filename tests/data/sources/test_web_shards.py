"""Shards of images and captions: what is read, and in which order."""

import io
import json
import os
import tarfile
import tracemalloc
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image
from tests import tiny
from tests.data.sources.flickr8k_folders import jpeg
from tests.data.sources.web_shard_folders import (
    IDS,
    NUM_SHARDS,
    ROWS,
    caption,
    encoded,
    ids,
    key,
    shard_files,
    write_folder,
    write_tar,
)
from torch.utils.data import DataLoader
from transformers import Trainer

from vlmkit import QFormerCaptioner
from vlmkit.data import CaptionCollator, ContrastiveCollator, stream_image_text
from vlmkit.data.sources.web_shard_layouts import find_shards
from vlmkit.training.arguments import TableTrainingArguments

# What is read


def test_a_row_is_what_collators_take(source):
    stream = stream_image_text(source)
    assert (stream.num_shards, list(stream.features)) == (NUM_SHARDS, ["image", "captions", "image_id"])
    rows = list(stream)
    assert ids(rows) == IDS
    assert rows[5]["captions"] == [caption(1, 1)]
    assert rows[5]["image"].getpixel((0, 0)) == Image.open(io.BytesIO(jpeg(21))).getpixel((0, 0))
    batch = ContrastiveCollator(tiny.dual_encoder_processor())(rows[:2])
    assert batch["pixel_values"].shape == (2, 3, 32, 32)


def test_both_layouts_are_equal(tars, folders):
    encoded = [
        list(stream_image_text(folder).cast_column("image", datasets.Image(decode=False))) for folder in (tars, folders)
    ]
    assert encoded[0] == encoded[1]


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_compressed_tars(tars, tmp_path, compression):
    write_tar(tmp_path / "cc3m" / f"00000.tar.{compression}", shard_files(0), f"w:{compression}")
    assert ids(stream_image_text(tmp_path / "cc3m")) == IDS[:ROWS]


def test_other_names_and_members_in_a_tar(tmp_path):
    files = {
        "./dogs/.hidden.jpg": b"",
        "./dogs/a.b/x.JPG": jpeg(),
        "./dogs/a.b/x.TXT": b"\xef\xbb\xbf a dog \n",
        "./dogs/a.b/x.mask.png": b"",
        "README": b"",
        "y.json": json.dumps({"caption": "a cat"}).encode(),
        "y.webp": encoded("WEBP"),
    }
    write_tar(tmp_path / "mine.tar", files)
    with tarfile.open(tmp_path / "mine.tar", "a") as tar:
        folder, link = tarfile.TarInfo("z.jpg"), tarfile.TarInfo("z.txt")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(folder)
        tar.addfile(link)
    rows = list(stream_image_text(tmp_path / "mine.tar"))
    prefix = f"{tmp_path.name}/mine"
    assert [(row["image_id"], row["captions"]) for row in rows] == [
        (f"{prefix}/dogs/a.b/x", ["a dog"]),
        (f"{prefix}/y", ["a cat"]),
    ]


def test_names_that_are_not_utf_8(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name, content in (("é.jpg", jpeg()), ("é.txt", b"a dog")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    [image_id] = ids(stream_image_text(tmp_path / "a.tar"))
    assert image_id.endswith(r"/a/\xe9")
    (tmp_path / "b").mkdir()
    for name, content in ((b"\xe9.jpg", jpeg()), (b"\xe9.txt", b"a dog")):
        Path(os.fsdecode(os.fsencode(tmp_path / "b") + b"/" + name)).write_bytes(content)
    [image_id] = ids(stream_image_text(tmp_path / "b"))
    assert image_id.endswith(r"/b/\xe9")


def test_find_shards(tars, folders):
    def names(pattern: object) -> list[str]:
        return [path.name for path in find_shards(pattern)]

    assert names(tars) == names(f"{tars}/*") == ["00000.tar", "00001.tar", "00002.tar"]
    assert names(f"{tars}/{{00001..00002}}.tar") == names(f"{tars}/0000[12].tar") == ["00001.tar", "00002.tar"]
    assert names(f"{tars}/0000{{2,0}}.tar") == ["00002.tar", "00000.tar"]
    assert names(f"{tars.parent}/{{cc3m,cc12m}}/00*.tar") == names(tars)
    assert names(f"{tars}/00001.tar") == ["00001.tar"]
    assert names(folders) == names(f"{folders}/{{00000..00002}}") == ["00000", "00001", "00002"]
    assert names(folders / "00001") == ["00001"]


def test_shards_that_are_not_there(tars, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"The shard .*00003\.tar does not exist"):
        stream_image_text(f"{tars}/{{00000..00003}}.tar")
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", f"{tars}/*.zip"):
        with pytest.raises(FileNotFoundError, match=r"does not contain any shards\. Expected \.tar files, or folders"):
            stream_image_text(nothing)


def test_two_shards_of_one_name(tars, folders):
    pattern = f"{tars.parent.parent}/{{tars,folders}}/cc3m/*"
    with pytest.raises(ValueError, match=r"would give their images the same ids\. Rename one"):
        stream_image_text(pattern)


def test_names_of_shards_may_hold_dots(tmp_path):
    for name in ("train.00000.tar", "train.00001.TAR.GZ", "train.00002.tgz"):
        write_tar(tmp_path / "cc3m" / name, {"a.jpg": jpeg(1), "a.txt": b"a dog"})
    assert ids(stream_image_text(tmp_path / "cc3m")) == [f"cc3m/train.0000{shard}/a" for shard in range(3)]


def test_unknown_option(tars):
    with pytest.raises(ValueError, match=r"`on_error` must be one of 'raise', 'skip', but got 'warn'."):
        stream_image_text(tars, on_error="warn")


def test_an_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded("JPEG", Image.new("RGB", (8, 4)), exif=exif)
    write_folder(tmp_path / "cc3m" / "00000", {"a.jpg": turned, "a.txt": b"a dog"})
    [row] = stream_image_text(tmp_path / "cc3m")
    assert row["image"].size == (4, 8)


# How it is read


def test_a_shard_is_not_read_before_it_is_needed(tars):
    stream = iter(stream_image_text(tars))
    (tars / "00001.tar").write_bytes(b"no tar")
    assert [next(stream)["image_id"] for _ in range(ROWS)] == IDS[:ROWS]
    with pytest.raises(ValueError, match=r"00001\.tar cannot be opened"):
        next(stream)


def test_a_row_is_read_without_those_after_it(tars):
    content = (tars / "00000.tar").read_bytes()
    (tars / "00000.tar").write_bytes(content[: len(content) // 2])
    assert next(iter(stream_image_text(tars)))["image_id"] == IDS[0]


@pytest.mark.parametrize("layout", ["tar", "folder"])
def test_memory_does_not_grow_with_the_shard(tmp_path, layout):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = encoded("PNG", Image.fromarray(noise))  # 12 KB
    files = {name: content for row in range(400) for name, content in ((f"{row}.png", image), (f"{row}.txt", b"a dog"))}
    (write_tar if layout == "tar" else write_folder)(tmp_path / "cc3m" / "00000.tar", files)
    stream = stream_image_text(tmp_path / "cc3m" / "00000.tar")
    next(iter(stream))
    tracemalloc.start()
    assert sum(1 for _ in stream) == 400
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * len(image) / 4


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_share_the_shards(source, num_workers):
    loader = DataLoader(stream_image_text(source), batch_size=2, num_workers=num_workers, collate_fn=ids)
    assert sorted(image_id for batch in loader for image_id in batch) == IDS


def test_two_processes_share_the_shards(source):
    stream = stream_image_text(source)
    parts = [ids(split_dataset_by_node(stream, rank, 2)) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == IDS


def test_parts_of_an_endless_stream(tars):
    stream = stream_image_text(tars).repeat(None)
    parts = [stream.shard(num_shards=2, index=index) for index in (0, 1)]  # as accelerate does
    seen = [{row["image_id"] for row in part.take(3 * ROWS)} for part in parts]
    assert sorted(seen[0] | seen[1]) == IDS
    assert not seen[0] & seen[1]


@pytest.mark.parametrize("seen", [0, 1, ROWS, 2 * ROWS + 1])
def test_a_stream_goes_on_where_it_stopped(tars, seen):
    damaged = shard_files(0) | {f"{key(0, 0)}.jpg": b"no image"}
    write_tar(tars / "00000.tar", damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        stream = stream_image_text(tars, on_error="skip")
        rows = iter(stream)
        before = [next(rows)["image_id"] for _ in range(seen)]
        state = json.loads(json.dumps(stream.state_dict()))
        resumed = stream_image_text(tars, on_error="skip")
        resumed.load_state_dict(state)
        assert before + ids(resumed) == IDS[1:]


def test_shuffling_reads_each_row_once(source):
    stream = stream_image_text(source).shuffle(seed=1, buffer_size=3)
    first = ids(stream)
    assert first != IDS
    assert sorted(first) == IDS
    stream.set_epoch(1)
    assert sorted(ids(stream)) == IDS
    assert ids(stream) != first


def test_trainer_trains_on_a_stream(tars, tmp_path):
    arguments = TableTrainingArguments(
        str(tmp_path / "run"), max_steps=8, per_device_train_batch_size=2, save_strategy="no", use_cpu=True
    )
    collator = CaptionCollator(tiny.qformer_captioner_processor())
    model = QFormerCaptioner(tiny.qformer_captioner_config())
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=stream_image_text(tars))
    assert trainer.train().global_step == 8  # more than the six of an epoch
