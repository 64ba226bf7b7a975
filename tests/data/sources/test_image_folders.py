import pytest
from PIL import Image
from tests import tiny

from vlmkit.data import decodable_image_files, find_image_files, thumbnail


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "c.webp"):
        tiny.photo().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.jpg").write_bytes(b"no image either")
    return tmp_path


def test_files_and_the_image_files_of_folders_in_order(folder):
    found = find_image_files([folder / "notes.txt", str(folder)])
    assert [file.name for file in found] == ["notes.txt", "a.PNG", "b.jpg", "broken.jpg", "c.webp"]


def test_places_without_images_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist\. Pass image files or folders"):
        find_image_files([folder, tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"at least one image, but got .*empty\. Files in folders must end in one of \.bmp, "
    ):
        find_image_files([tmp_path / "empty"])
    with pytest.raises(ValueError, match="but got an empty list"):
        find_image_files([])


def test_what_cannot_be_decoded_is_told(folder):
    good, broken = decodable_image_files([folder / "a.PNG", folder / "broken.jpg"])
    assert good == [folder / "a.PNG"]
    assert broken.keys() == {folder / "broken.jpg"}
    assert broken[folder / "broken.jpg"].startswith("UnidentifiedImageError: cannot identify image file")
    with pytest.raises(ValueError, match=r"None of the 1 images can be decoded \(.*broken.jpg: UnidentifiedImageError"):
        decodable_image_files([folder / "broken.jpg"])


def test_thumbnails_are_small_and_rgb(tmp_path):
    Image.new("RGBA", (800, 400), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    small = thumbnail(tmp_path / "clear.png", side=100)
    assert (small.size, small.mode, small.getpixel((0, 0))) == ((100, 50), "RGB", (255, 255, 255))
    assert thumbnail(tmp_path / "clear.png", side=1000).size == (800, 400)


def test_thumbnails_are_turned_as_the_file_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    tiny.photo(48, 40).save(tmp_path / "turned.jpg", exif=exif)
    assert thumbnail(tmp_path / "turned.jpg", side=24).size == (20, 24)
