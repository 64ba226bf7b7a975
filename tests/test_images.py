"""Images of every mode keep their content on the way to 8-bit RGB."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from vlmkit.images import denormalized_image, rgb_images, to_rgb

RED, GREEN = (254, 0, 0), (0, 255, 1)


def pixels(image: Image.Image) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "P", "CMYK", "YCbCr", "HSV"])
def test_colours_survive(mode):
    image = Image.new("RGB", (2, 1))
    image.putdata([RED, GREEN])
    converted = to_rgb(image.convert(mode))
    assert converted.mode == "RGB"
    assert np.abs(np.subtract(pixels(converted), [RED, GREEN])).max() <= 2  # what the mode itself rounds


@pytest.mark.parametrize(
    ("mode", "value", "expected"), [("1", 1, 255), ("L", 100, 100), ("LA", (100, 255), 100), ("I", 100, 100)]
)
def test_grey_survives(mode, value, expected):
    assert pixels(to_rgb(Image.new(mode, (1, 1), value))) == [(expected,) * 3]


@pytest.mark.parametrize("dtype", [">u2", "<u2", "int32"])  # PIL's modes I;16B, I;16 and I
def test_16_bits_are_scaled_to_8(dtype):
    image = Image.fromarray(np.array([[0, 256, 32768, 65535]]).astype(dtype))
    assert image.mode.startswith("I")
    assert pixels(to_rgb(image)) == [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floats_reach_from_0_to_1_or_from_0_to_255(top):
    image = Image.fromarray(np.array([[0, 0.2, 1]], dtype=np.float32) * top)
    assert pixels(to_rgb(image)) == [(0,) * 3, (51,) * 3, (255,) * 3]


def test_values_outside_the_range_are_clipped():
    floats = Image.fromarray(np.array([[-5, 300, np.nan]], dtype=np.float32))
    assert pixels(to_rgb(floats)) == [(0,) * 3, (255,) * 3, (0,) * 3]
    integers = Image.fromarray(np.array([[-5, 70000]], dtype=np.int32))
    assert pixels(to_rgb(integers)) == [(0,) * 3, (255,) * 3]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_transparent_pixels_are_white(mode):
    assert pixels(to_rgb(Image.new(mode, (1, 1)))) == [(255, 255, 255)]


def test_half_transparent_pixels_are_mixed_with_white():
    assert pixels(to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))) == [(127, 127, 127)]


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_is_white(mode):
    image = Image.new("RGB", (2, 1))
    image.putdata([(51, 51, 51), (204, 204, 204)])  # both in the web palette of mode P
    image = image.convert(mode)
    image.info["transparency"] = image.getpixel((0, 0))
    assert pixels(to_rgb(image)) == [(255, 255, 255), (204, 204, 204)]


@pytest.mark.parametrize("size", [(1, 1), (10_000, 10), (0, 0)])
def test_any_size(size):
    assert to_rgb(Image.new("I;16", size)).size == size
    assert to_rgb(Image.new("F", size)).size == size


def test_the_image_given_is_left_as_it_is():
    image = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    to_rgb(image)
    assert (image.mode, image.getpixel((0, 0))) == ("RGBA", (0, 0, 0, 128))


def test_nested_lists_keep_their_shape():
    array, tensor = np.zeros((2, 2, 3)), torch.zeros(3, 2, 2)
    grey = Image.new("L", (1, 1))
    converted = rgb_images([[grey, array], (tensor,), None, "https://example.com/a.png"])
    assert converted[0][0].mode == "RGB"
    assert converted[0][1] is array
    assert converted[1][0] is tensor
    assert converted[2:] == [None, "https://example.com/a.png"]
    assert rgb_images(grey).mode == "RGB"


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_a_file_is_opened_with_its_depth_transparency_and_orientation(tmp_path, kind):
    Image.fromarray(np.full((1, 1), 32768, dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (1, 1)).save(tmp_path / "transparent.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    tiny.photo(8, 4).save(tmp_path / "turned.jpg", exif=turned)

    deep, transparent, upright = rgb_images([kind(path) for path in sorted(tmp_path.iterdir())])
    assert pixels(deep) == [(128, 128, 128)]
    assert pixels(transparent) == [(255, 255, 255)]
    assert upright.size == (4, 8)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "notes.jpg").write_text("no image")
    with pytest.raises(OSError, match=r"notes\.jpg"):
        rgb_images(tmp_path / "notes.jpg")


def test_text_that_is_no_file_is_left_to_transformers():
    buffer = io.BytesIO()
    tiny.photo().save(buffer, "png")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    assert rgb_images([encoded, "https://example.org/a.png"]) == [encoded, "https://example.org/a.png"]


@pytest.mark.parametrize("do_normalize", [True, False])
def test_what_a_model_sees_is_the_cropped_image(do_normalize):
    processor = tiny.image_processor()
    processor.do_normalize = do_normalize
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste("blue", (32, 0, 64, 32))  # all that the crop leaves
    seen = denormalized_image(processor(wide, return_tensors="pt")["pixel_values"][0], processor)
    assert seen.size == (32, 32)
    assert set(pixels(seen)) == {(0, 0, 255)}


def test_a_file_that_is_not_there(tmp_path):
    """transformers would decode some such paths as if they were images in base64."""
    for name in (str(tmp_path / "missing.png"), tmp_path / "missing.png", "abcd.png"):
        with pytest.raises(
            FileNotFoundError, match=r"The image file .*\.png does not exist\. Pass an existing file or a URL"
        ):
            rgb_images([name])
