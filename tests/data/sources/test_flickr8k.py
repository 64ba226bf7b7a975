"""Protocols, fingerprints and hub tables; the real data where VLMKIT_FLICKR8K names its folder."""

import logging
import os
import warnings
from pathlib import Path

import datasets
import pytest
from tests.data.sources.flickr8k_folders import (
    CAPTIONS,
    EXPECTED,
    SPLITS,
    contents,
    jpeg,
    write_csv,
    write_images,
    write_lists,
)

from vlmkit.data import load_flickr8k
from vlmkit.data.sources import caption_tables, flickr8k


def test_full_protocol_follows_the_published_lists(folder):
    tables = load_flickr8k(folder)
    assert contents(tables) == EXPECTED
    assert tables["train"]["image_id"][:] == SPLITS["train"]
    for table in tables.values():
        assert table.features == datasets.Features(
            image=datasets.Image(), captions=datasets.List(datasets.Value("string")), image_id=datasets.Value("string")
        )
    assert tables["train"][0]["image"].size == (8, 8)


def test_images_are_stored_as_absolute_paths(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    table = load_flickr8k(folder.name)["test"].cast_column("image", datasets.Image(decode=False))
    assert table[0]["image"] == {"bytes": None, "path": str(folder / "Images" / "e.jpg")}


def test_images_in_no_list_are_left_out_and_logged(folder, caplog):
    with caplog.at_level(logging.INFO, logger="vlmkit"):
        load_flickr8k(folder)
    assert "Left out 2 captioned images of" in caplog.text


def test_without_splits_the_images_are_divided_by_seed(bare, caplog):
    write_csv(bare / "captions.txt", CAPTIONS)
    tables = load_flickr8k(bare, seed=1)
    assert tables.num_rows == {"train": 6, "validation": 1, "test": 1}
    assert sorted(name for table in tables.values() for name in table["image_id"]) == sorted(CAPTIONS)
    assert "8 images were split 6:1:1 at random with seed 1" in caplog.text
    write_csv(bare / "captions.txt", dict(reversed(CAPTIONS.items())))  # the rows' order does not matter
    assert contents(load_flickr8k(bare, seed=1)) == contents(tables)
    assert any(contents(load_flickr8k(bare, seed=seed)) != contents(tables) for seed in range(2, 5))


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """2,004 images, and lists that the protocol "paper" ignores."""
    folder = tmp_path_factory.mktemp("flickr8k")
    captions = {f"{number:04}.jpg": [f"first {number}", f"second {number}"] for number in range(2004)}
    write_images(folder / "Images", captions)
    write_csv(folder / "captions.txt", captions)
    write_lists(folder, {"train": ["0000.jpg"], "validation": ["0001.jpg"], "test": ["0002.jpg"]})
    return folder


def test_paper_draws_disjoint_splits_with_the_first_caption(many):
    tables = contents(load_flickr8k(many, protocol="paper"))
    assert {name: len(table) for name, table in tables.items()} == {"train": 1800, "test": 200}
    assert not tables["train"].keys() & tables["test"].keys()
    everything = tables["train"] | tables["test"]
    assert all(captions == [f"first {int(name[:4])}"] for name, captions in everything.items())


def test_paper_is_deterministic_in_the_seed(many):
    first, again, other = (contents(load_flickr8k(many, protocol="paper", seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first["test"].keys() != other["test"].keys()


def test_paper_needs_2000_images(folder):
    with pytest.raises(ValueError, match="at least 2000 images, but got 8"):
        load_flickr8k(folder, protocol="paper")


def test_nothing_at_that_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        load_flickr8k(tmp_path / "elsewhere")


def test_no_image_left(folder):
    for path in (folder / "Images").iterdir():
        path.write_bytes(b"")
    with (
        pytest.raises(ValueError, match="but got none for train, validation, test"),
        pytest.warns(UserWarning, match=r"undecodable image \(6\)"),
    ):
        load_flickr8k(folder, on_error="skip")


def test_too_few_images_to_divide(bare):
    write_csv(bare / "captions.txt", {"a.jpg": ["one"], "b.jpg": ["two"]})
    with pytest.raises(ValueError, match="but got none for train"):
        load_flickr8k(bare)


def test_unknown_options(folder):
    with pytest.raises(ValueError, match=r"`protocol` must be one of 'paper', 'full', but got 'papers'."):
        load_flickr8k(folder, protocol="papers")
    with pytest.raises(ValueError, match=r"`on_error` must be one of 'raise', 'skip', but got 'warn'."):
        load_flickr8k(folder, on_error="warn")


def test_sound_data_warn_of_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_flickr8k(folder, on_error="skip")


def fingerprints(folder: Path) -> list[str]:
    return [table._fingerprint for table in load_flickr8k(folder).values()]


def test_fingerprint_notices_a_replaced_image_and_a_changed_caption(folder):
    before = fingerprints(folder)
    (folder / "Images" / "a.jpg").write_bytes(jpeg(200))
    os.utime(folder / "Images" / "a.jpg", ns=(0, 1))
    replaced = fingerprints(folder)
    assert replaced != before
    write_csv(folder / "captions.txt", CAPTIONS | {"a.jpg": ["Something else."]})
    assert fingerprints(folder) not in (before, replaced)


class TestHub:
    """Parquet folders, which `load_dataset` reads like hub ids."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(self, folder: Path, **splits: dict) -> Path:
        folder.mkdir()
        for name, columns in splits.items():
            count = len(next(iter(columns.values())))
            images = columns.get("image", [jpeg(shade) for shade in range(count)])
            encoded = [{"bytes": image, "path": None} if image else None for image in images]
            table = datasets.Dataset.from_dict({**columns, "image": encoded})
            table.cast_column("image", datasets.Image()).to_parquet(folder / f"{name}.parquet")
        return folder

    def test_numbered_captions(self, tmp_path):
        def split(name: str, count: int) -> dict:
            return {f"caption_{i}": [f"{name} {row} {i}" for row in range(count)] for i in (1, 0, 2, 3, 4)}

        source = self.write(tmp_path / "hub", train=split("t", 3), validation=split("v", 2), test=split("e", 1))
        tables = load_flickr8k(str(source))
        assert contents(tables)["validation"] == {f"validation-{r}": [f"v {r} {i}" for i in range(5)] for r in (0, 1)}
        assert tables.num_rows == {"train": 3, "validation": 2, "test": 1}
        assert tables["train"].column_names == ["image", "captions", "image_id"]
        assert tables["validation"][1]["image"].getpixel((0, 0))[0] == pytest.approx(1, abs=2)

    @pytest.mark.parametrize(
        ("column", "values"),
        [("captions", [["one", "two"], ["three"]]), ("caption", ["one", "two"]), ("text", ["a", "b"])],
    )
    def test_names_of_the_caption_column(self, tmp_path, column, values):
        source = self.write(tmp_path / "hub", train={column: values}, test={column: values})
        expected = [value if isinstance(value, list) else [value] for value in values]
        assert load_flickr8k(source)["test"]["captions"][:] == expected

    def test_one_row_per_caption(self, tmp_path):
        columns = {
            "caption": ["a1", "b1", "a2"],
            "filename": ["a.jpg", "b.jpg", "a.jpg"],
            "image": [jpeg(10), jpeg(99), jpeg(10)],
        }
        tables = load_flickr8k(self.write(tmp_path / "hub", train=columns, test=columns))
        assert contents(tables)["train"] == {"a.jpg": ["a1", "a2"], "b.jpg": ["b1"]}
        assert [row["image"].getpixel((0, 0))[0] for row in tables["test"]] == pytest.approx([10, 99], abs=2)

    def test_a_single_split_is_divided(self, tmp_path):
        source = self.write(tmp_path / "hub", train={"caption": [f"caption {row}" for row in range(8)]})
        assert load_flickr8k(source).num_rows == {"train": 6, "validation": 1, "test": 1}

    def test_faults_name_split_and_row(self, tmp_path):
        train = {
            "captions": [["one"], ["two", None], [], ["four"], ["five"]],
            "image": [jpeg(), jpeg(), jpeg(), b"x", None],
        }
        source = self.write(tmp_path / "hub", train=train, test={"captions": [["one"]]})
        with pytest.raises(ValueError, match=r"hub, split train, row 2: the caption of train-1 is empty"):
            load_flickr8k(source)
        counts = r"empty caption \(1\), image without caption \(1\), undecodable image \(2\)"
        with pytest.warns(UserWarning, match=counts):
            tables = load_flickr8k(source, on_error="skip")
        assert contents(tables)["train"] == {"train-0": ["one"], "train-1": ["two"]}

    def test_missing_captions(self, tmp_path):
        source = self.write(tmp_path / "hub", train={"label": [1]})
        with pytest.raises(
            ValueError, match=r"split train: the table must have the column image .* but got label, image"
        ):
            load_flickr8k(source)

    def test_missing_images(self, tmp_path):
        (tmp_path / "hub").mkdir()
        datasets.Dataset.from_dict({"text": ["one"]}).to_parquet(tmp_path / "hub" / "train.parquet")
        with pytest.raises(ValueError, match=r"split train: the table must have the column image .* but got text"):
            load_flickr8k(tmp_path / "hub")

    def test_paper_pools_the_splits(self, tmp_path, monkeypatch):
        monkeypatch.setattr(flickr8k, "_PAPER_IMAGES", 5)
        monkeypatch.setattr(flickr8k, "_PAPER_TRAIN", 3)
        captions = {"captions": [[f"first {row}", "second"] for row in range(3)]}
        tables = load_flickr8k(self.write(tmp_path / "hub", train=captions, test=captions), protocol="paper")
        assert tables.num_rows == {"train": 3, "test": 2}
        assert len(set(tables["train"]["image_id"]) | set(tables["test"]["image_id"])) == 5

    def test_paper_refuses_an_image_in_two_splits(self, tmp_path):
        columns = {"captions": [["one"]], "image_id": [7]}
        with pytest.raises(ValueError, match="an image is in two splits"):
            load_flickr8k(self.write(tmp_path / "hub", train=columns, test=columns), protocol="paper")

    def test_a_folder_may_lie_in_the_home_folder(self, tmp_path, monkeypatch):
        captions = {"caption": ["one", "two"]}
        self.write(tmp_path / "tables", train=captions, test=captions)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert load_flickr8k("~/tables").num_rows == {"train": 2, "test": 2}
        with pytest.raises(FileNotFoundError, match="~/elsewhere is neither a local folder of captioned images"):
            load_flickr8k("~/elsewhere")

    def test_default_is_the_public_copy(self, monkeypatch):
        def fail(source):
            raise ConnectionError("unreachable")

        monkeypatch.setattr(caption_tables, "load_dataset", fail)
        with pytest.raises(FileNotFoundError, match=r"jxie/flickr8k is neither a local folder .*: unreachable$"):
            load_flickr8k()


@pytest.mark.skipif("VLMKIT_FLICKR8K" not in os.environ, reason="VLMKIT_FLICKR8K names no folder with the real data")
def test_real_data():
    folder = Path(os.environ["VLMKIT_FLICKR8K"])
    full, paper = contents(load_flickr8k(folder)), contents(load_flickr8k(folder, protocol="paper"))
    assert all(len(captions) == 5 for table in full.values() for captions in table.values())
    assert not full["train"].keys() & full["test"].keys()
    assert {name: len(table) for name, table in paper.items()} == {"train": 1800, "test": 200}
    assert not paper["train"].keys() & paper["test"].keys()
