from pathlib import Path

import pytest
from tests.data.sources.flickr8k_folders import CAPTIONS, write_csv, write_images, write_lists
from tests.data.sources.web_shard_folders import write_folders, write_tars


@pytest.fixture
def bare(tmp_path) -> Path:
    """Images without texts."""
    write_images(tmp_path / "Images", CAPTIONS)
    return tmp_path


@pytest.fixture
def folder(bare) -> Path:
    """Images, captions.txt and the published lists; g.jpg and h.jpg are in no list."""
    write_csv(bare / "captions.txt", CAPTIONS)
    write_lists(bare / "official_splits")
    return bare


@pytest.fixture
def tars(tmp_path) -> Path:
    """Shards of images and captions."""
    return write_tars(tmp_path / "tars" / "cc3m")


@pytest.fixture
def folders(tmp_path) -> Path:
    """The same in folders of files."""
    return write_folders(tmp_path / "folders" / "cc3m")


@pytest.fixture(params=["tars", "folders"])
def source(request) -> Path:
    return request.getfixturevalue(request.param)
