from pathlib import Path

import pytest
from tests.data.flickr8k_folders import CAPTIONS, write_csv, write_images, write_lists


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
