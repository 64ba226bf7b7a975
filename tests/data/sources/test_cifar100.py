"""All sources, the splits, and that nothing is unpickled before its MD5 sum is checked."""

import hashlib
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR100

from vlmkit.data import CIFAR100_CLASSES, CIFAR100_SUPERCLASSES, load_cifar100
from vlmkit.data.sources import cifar100

FOLDER = "cifar-100-python"
NUM_TRAIN, NUM_TEST = 400, 100
MEMBERS = ("train", "test", "meta")


class Bomb:
    """A pickle that leaves a folder behind when it is opened."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def pixels_of(split: str, row: int) -> tuple[int, int, int]:
    return row % 256, row // 256, 255 * (split == "test")


def member(split: str, num_images: int) -> bytes:
    """A pickle as in the original: a row of red, green and blue values for each image."""
    colors = np.array([pixels_of(split, row) for row in range(num_images)], dtype=np.uint8)
    labels = [row % 100 for row in range(num_images)]
    return pickle.dumps({"data": colors.repeat(1024, axis=1), "fine_labels": labels})


def write_archive(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, FOLDER)
    return path


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def small_original(tmp_path_factory) -> Path:
    """The folder and the archive, in the layout of the original."""
    folder = tmp_path_factory.mktemp("original") / FOLDER
    folder.mkdir()
    (folder / "train").write_bytes(member("train", NUM_TRAIN))
    (folder / "test").write_bytes(member("test", NUM_TEST))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list(CIFAR100_CLASSES)}))
    write_archive(folder.parent / "cifar-100-python.tar.gz", folder)
    return folder


@pytest.fixture
def original(small_original, tmp_path, monkeypatch) -> Path:
    """A copy whose MD5 sums torchvision takes for those of the original."""
    shutil.copytree(small_original.parent, tmp_path / "copy")
    folder = tmp_path / "copy" / FOLDER
    for name, sums in (("train", "train_list"), ("test", "test_list")):
        monkeypatch.setattr(CIFAR100, sums, [[name, md5(folder / name)]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": md5(folder / "meta")})
    monkeypatch.setattr(CIFAR100, "tgz_md5", md5(folder.parent / "cifar-100-python.tar.gz"))
    return folder


def ids(tables: datasets.DatasetDict) -> dict[str, set[str]]:
    return {split: set(table["image_id"]) for split, table in tables.items()}


def test_superclasses_divide_the_classes():
    assert len(CIFAR100_SUPERCLASSES) == 20
    assert {len(names) for names in CIFAR100_SUPERCLASSES.values()} == {5}
    assert len(set(CIFAR100_CLASSES)) == 100
    assert CIFAR100_CLASSES[0] == "apple"
    assert CIFAR100_CLASSES[99] == "worm"
    assert CIFAR100_SUPERCLASSES["people"] == ("baby", "boy", "girl", "man", "woman")


class TestOriginal:
    @pytest.mark.parametrize("place", [".", "..", "../cifar-100-python.tar.gz"])
    def test_folder_parent_and_archive_give_the_same(self, original, place):
        tables = load_cifar100(original / place, num_validation=0)
        assert tables.num_rows == {"train": NUM_TRAIN, "test": NUM_TEST}
        for split, table in tables.items():
            assert table.features == datasets.Features(
                image=datasets.Image(),
                label=datasets.ClassLabel(names=list(CIFAR100_CLASSES)),
                image_id=datasets.Value("string"),
            )
            row = table[17]
            assert row["image"].size == (32, 32)
            assert row["image"].getpixel((31, 0)) == pixels_of(split, 17)
            assert (row["label"], row["image_id"]) == (17, f"cifar100-{split}-00017")

    def test_from_within_the_folder(self, original, monkeypatch):
        monkeypatch.chdir(original)
        assert load_cifar100(".", num_validation=0).num_rows["train"] == NUM_TRAIN

    @pytest.mark.parametrize("name", MEMBERS)
    def test_a_wrong_byte_is_refused(self, original, name):
        content = bytearray((original / name).read_bytes())
        content[-1] ^= 1
        (original / name).write_bytes(content)
        with pytest.raises(
            ValueError,
            match=f"cifar-100-python was not opened.* of {name} differs from the original.*Download .* again",
        ):
            load_cifar100(original)

    @pytest.mark.parametrize("name", MEMBERS)
    def test_a_missing_file_is_named(self, original, name):
        (original / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"cifar-100-python lacks {name}\. Download"):
            load_cifar100(original.parent)

    @pytest.mark.parametrize("name", MEMBERS)
    def test_a_foreign_pickle_is_never_opened(self, original, tmp_path, name):
        (original / name).write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
        with pytest.raises(ValueError, match="was not opened"):
            load_cifar100(original)
        archive = write_archive(tmp_path / "cifar-100-python.tar.gz", original)
        with pytest.raises(ValueError, match="was not opened"):
            load_cifar100(archive)
        assert not (tmp_path / "trace").exists()
        pickle.loads((original / name).read_bytes())
        assert (tmp_path / "trace").exists()  # it does go off where it is opened

    @pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: b"", lambda content: b"\0" * 9])
    def test_a_damaged_archive_is_refused(self, original, damage):
        archive = original.parent / "cifar-100-python.tar.gz"
        archive.write_bytes(damage(archive.read_bytes()))
        with pytest.raises(ValueError, match=r"cifar-100-python.tar.gz was not opened, .* Download it again from"):
            load_cifar100(archive)

    def test_the_true_sums_refuse_other_files(self, small_original):
        with pytest.raises(ValueError, match="train and test and meta differs from the original"):
            load_cifar100(small_original)
        with pytest.raises(ValueError, match="differs from the original"):
            load_cifar100(small_original.parent / "cifar-100-python.tar.gz")


class TestTables:
    """Parquet folders, which `load_dataset` reads like hub ids."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def table(self, num_images: int, image="img", label="fine_label", names=CIFAR100_CLASSES, split="train"):
        images = [Image.new("RGB", (32, 32), pixels_of(split, row)) for row in range(num_images)]
        labels = [row % 100 for row in range(num_images)]
        types = {image: datasets.Image(), label: datasets.ClassLabel(names=list(names))}
        return datasets.Dataset.from_dict({image: images, label: labels}, datasets.Features(types)).add_column(
            "coarse_label", [0] * num_images
        )

    def write(self, folder: Path, **splits: datasets.Dataset) -> Path:
        folder.mkdir()
        for name, table in splits.items():
            table.to_parquet(folder / f"{name}.parquet")
        return folder

    @pytest.mark.parametrize("columns", [("img", "fine_label"), ("image", "label"), ("image", "fine_label")])
    def test_columns_become_ours(self, tmp_path, columns):
        source = self.write(
            tmp_path / "hub", train=self.table(200, *columns), test=self.table(100, *columns, split="test")
        )
        tables = load_cifar100(source, num_validation=0)
        assert tables.num_rows == {"train": 200, "test": 100}
        assert tables["train"].column_names == ["image", "label", "image_id"]
        row = tables["test"][99]
        assert (row["image"].getpixel((0, 0)), row["label"]) == ((99, 0, 255), 99)
        assert row["image_id"] == "cifar100-test-00099"

    def test_numbers_become_classes(self, tmp_path):
        numbers = self.table(200).cast_column("fine_label", datasets.Value("int64"))
        tables = load_cifar100(str(self.write(tmp_path / "hub", train=numbers)), num_validation=100)
        assert tables["train"].features["label"].names == list(CIFAR100_CLASSES)

    def test_a_given_validation_split_stays(self, tmp_path):
        validation = self.table(100, split="test")
        source = self.write(tmp_path / "hub", train=self.table(200), validation=validation)
        assert load_cifar100(source, num_validation=7).num_rows == {"train": 200, "validation": 100}

    def test_training_images_of_another_split_are_dropped(self, tmp_path):
        source = self.write(tmp_path / "hub", train=self.table(250), validation=self.table(3))
        with pytest.warns(UserWarning, match="Dropped 3 training images"):
            tables = load_cifar100(source)
        assert tables.num_rows == {"train": 247, "validation": 3}
        assert tables["train"]["image_id"][0] == "cifar100-train-00003"

    def test_images_may_be_files(self, tmp_path):
        for name in CIFAR100_CLASSES:
            (tmp_path / "files" / "train" / name).mkdir(parents=True)
            for shade in (0, 1):
                color = (CIFAR100_CLASSES.index(name), shade, 0)
                Image.new("RGB", (32, 32), color).save(tmp_path / "files" / "train" / name / f"{shade}.png")
        tables = load_cifar100(tmp_path / "files", num_validation=100)
        assert sorted(tables["validation"]["label"]) == list(range(100))

    def test_missing_column(self, tmp_path):
        source = self.write(tmp_path / "hub", train=self.table(100).remove_columns("fine_label"))
        with pytest.raises(
            ValueError, match=r"split train: the table must have a column img or image, .* but got img, coarse_label"
        ):
            load_cifar100(source)

    def test_other_classes(self, tmp_path):
        names = ["alpha", *CIFAR100_CLASSES[1:]]
        source = self.write(tmp_path / "hub", train=self.table(100, names=names))
        with pytest.raises(
            ValueError, match=r"the 100 classes of CIFAR-100, but got alpha, aquarium_fish, baby, ... \(100\)"
        ):
            load_cifar100(source)

    def test_no_training_split(self, tmp_path):
        source = self.write(tmp_path / "hub", test=self.table(100))
        with pytest.raises(ValueError, match="must have the split train, but got test"):
            load_cifar100(source)

    def test_row_without_image(self, tmp_path):
        table = self.table(100)
        holes = datasets.Dataset.from_dict(
            {"img": [None, *table["img"][1:]], "fine_label": table["fine_label"][:]},
            table.select_columns(["img", "fine_label"]).features,
        )
        with pytest.raises(ValueError, match="Split train, row 0: the image is missing"):
            load_cifar100(self.write(tmp_path / "hub", train=holes), num_validation=50)

    @pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
    def test_nothing_there(self, tmp_path, make):
        make(tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError, match=r"elsewhere is neither a local folder or archive of CIFAR-100"):
            load_cifar100(tmp_path / "elsewhere")

    def test_default_is_the_public_copy(self, monkeypatch):
        def fail(source):
            raise ConnectionError("no network")

        monkeypatch.setattr(cifar100, "load_dataset", fail)
        with pytest.raises(
            FileNotFoundError, match=r"uoft-cs/cifar100 is neither .* nor a data set on the Hub: no network"
        ):
            load_cifar100()


class TestValidation:
    """The images taken from the training split."""

    def test_each_class_has_its_share(self, original):
        tables = load_cifar100(original, num_validation=100)
        assert tables.num_rows == {"train": 300, "validation": 100, "test": 100}
        assert sorted(tables["validation"]["label"]) == list(range(100))
        assert np.bincount(tables["train"]["label"][:]).tolist() == [3] * 100

    def test_any_number_is_possible(self, original):
        counts = np.bincount(load_cifar100(original, num_validation=130)["validation"]["label"][:], minlength=100)
        assert counts.sum() == 130
        assert set(counts) == {1, 2}

    def test_splits_share_no_image(self, original):
        tables = ids(load_cifar100(original, num_validation=100))
        assert sum(map(len, tables.values())) == len(set().union(*tables.values())) == NUM_TRAIN + NUM_TEST
        everything = {f"cifar100-train-{row:05}" for row in range(NUM_TRAIN)}
        assert tables["train"] | tables["validation"] == everything

    def test_images_that_occur_twice_are_not_taken(self, original, monkeypatch):
        entry = pickle.loads((original / "train").read_bytes())
        entry["data"][1:4] = entry["data"][0]
        (original / "train").write_bytes(pickle.dumps(entry))
        monkeypatch.setattr(CIFAR100, "train_list", [["train", md5(original / "train")]])
        twice = {f"cifar100-train-{row:05}" for row in range(4)}
        assert not ids(load_cifar100(original, num_validation=396))["validation"] & twice
        with pytest.raises(
            ValueError, match=r"`num_validation` must be from 0 to 396, but got 397.* 400 images, 396 of them without"
        ):
            load_cifar100(original, num_validation=397)

    def test_seed_decides(self, original):
        first, again, other = (
            ids(load_cifar100(original, num_validation=100, seed=seed))["validation"] for seed in (1, 1, 2)
        )
        assert first == again
        assert first != other

    @pytest.mark.parametrize("num_validation", [-1, NUM_TRAIN, NUM_TRAIN + 1])
    def test_impossible_numbers(self, original, num_validation):
        with pytest.raises(ValueError, match=rf"`num_validation` must be from 0 to \d+, but got {num_validation}"):
            load_cifar100(original, num_validation=num_validation)


@pytest.mark.skipif("VLMKIT_CIFAR100" not in os.environ, reason="VLMKIT_CIFAR100 names no folder with the real data")
def test_real_data():
    source = Path(os.environ["VLMKIT_CIFAR100"])
    tables = load_cifar100(source)
    assert min(np.bincount(tables["train"]["label"][:])) > 400
    superclasses = source / "superclass_of.json"
    if superclasses.is_file():
        expected = {name: superclass for superclass, names in CIFAR100_SUPERCLASSES.items() for name in names}
        assert json.loads(superclasses.read_text()) == expected
