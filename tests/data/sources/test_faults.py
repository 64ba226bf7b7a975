import io
import warnings

import pytest
from PIL import Image

from vlmkit.data.sources.faults import CaptionRow, Faults, find_undecodable, group_captions


def encoded(data: bytes) -> dict:
    return {"bytes": data, "path": None}


def jpeg(size: tuple[int, int] = (64, 64), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue()


def rows(*captions: str, image_id: str = "a.jpg") -> list[CaptionRow]:
    return [CaptionRow(image_id, caption, f"row {number}") for number, caption in enumerate(captions, start=1)]


def test_raise_uses_the_given_exception():
    with pytest.raises(FileNotFoundError, match=r'a\.jpg is missing.*on_error="skip"'):
        Faults("raise").add("missing image", "a.jpg is missing.", error=FileNotFoundError)


def test_skip_counts_each_fault_once_and_reports_once():
    faults = Faults("skip")
    for kind, message in [
        ("empty caption", "row 1"),
        ("empty caption", "row 2"),
        ("missing image", "a"),
        ("missing image", "a"),
    ]:
        faults.add(kind, message)
    with pytest.warns(
        UserWarning, match=r"^Dropped invalid data of Flickr8k: empty caption \(2\), missing image \(1\)\.$"
    ):
        faults.report("Flickr8k")


def test_nothing_to_report():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Faults("skip").report("Flickr8k")


def test_unknown_on_error_names_the_choices():
    with pytest.raises(ValueError, match="`on_error` must be one of 'raise', 'skip', but got 'ignore'"):
        Faults("ignore")


def test_captions_are_stripped_and_keep_their_order():
    mixed = [*rows(" b ", "a"), *rows("c", image_id="b.jpg"), CaptionRow("a.jpg", "\tz", "row 9")]
    assert group_captions(mixed, faults=Faults()) == {"a.jpg": ["b", "a", "z"], "b.jpg": ["c"]}


@pytest.mark.parametrize("caption", ["", "  ", "\u00a0"])
def test_empty_caption(caption):
    with pytest.raises(ValueError, match=r"row 2: the caption of a\.jpg is empty"):
        group_captions(rows("A dog.", caption), faults=Faults())
    assert group_captions(rows(caption), faults=Faults("skip")) == {"a.jpg": []}


@pytest.mark.parametrize("captions", [["A dog.", "A dog. "], ["1", "2", "3", "4", "5", "1"]])
def test_duplicate_row(captions):
    with pytest.raises(ValueError, match=rf"row {len(captions)}: a\.jpg already has the caption '.+'"):
        group_captions(rows(*captions), faults=Faults())
    assert group_captions(rows(*captions), faults=Faults("skip")) == {"a.jpg": captions[:-1]}


def test_one_of_the_five_published_captions_may_repeat():
    assert group_captions(rows("1", "2", "3", "1", "5"), faults=Faults()) == {"a.jpg": ["1", "2", "3", "1", "5"]}


def test_repeats_are_kept_where_they_are_no_fault():
    captions = ["one", "two", "one", "one", "three", "one"]
    assert group_captions(rows(*captions), faults=Faults(), repeats=True) == {"a.jpg": captions}


def test_the_same_caption_for_two_images_is_no_duplicate():
    assert len(group_captions([*rows("A dog."), *rows("A dog.", image_id="b.jpg")], faults=Faults())) == 2


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_sound_images(mode, tmp_path):
    Image.new("RGBA", (8, 8)).save(tmp_path / "a.png")
    images = [encoded(jpeg(mode=mode)), {"bytes": None, "path": str(tmp_path / "a.png")}]
    assert find_undecodable(images, rows=[0, 1]) == {}


def test_broken_images():
    whole = jpeg()
    images = [encoded(whole), encoded(whole[: len(whole) // 2]), encoded(b""), encoded(b"no image"), None]
    reasons = find_undecodable(images, rows=range(5))
    assert reasons.keys() == {1, 2, 3, 4}
    assert "truncated" in reasons[1]


def test_only_the_rows_asked_for_are_checked():
    assert find_undecodable([None, None, encoded(jpeg())], rows=[1, 2]).keys() == {1}
