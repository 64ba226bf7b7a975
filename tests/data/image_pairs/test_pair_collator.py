import pytest
import torch

from vlmkit.data import ImageAugmentation, PairCollator

RED, BLUE = torch.tensor([255, 0, 0]), torch.tensor([0, 0, 255])


def side_by_side(images, return_tensors):
    """Stands in for the processor."""
    assert return_tensors == "pt"
    assert images.dtype == torch.uint8
    return {"pixel_values": torch.cat([images[:, 0], images[:, 1]], dim=-1) / 255, "unused": None}


def item(left: int, right: int, shade: int = 0) -> dict:
    return {"images": torch.full((2, 3, 8, 8), shade, dtype=torch.uint8), "labels": torch.tensor([left, right])}


def red_and_blue() -> dict:
    images = torch.stack([RED, BLUE])[:, :, None, None].expand(2, 3, 8, 8).to(torch.uint8)
    return {"images": images, "labels": torch.tensor([0, 1])}


def test_batch():
    batch = PairCollator(side_by_side, num_classes=5)([item(1, 2, shade=51), item(4, 0)])
    assert batch.keys() == {"pixel_values", "caption_ids"}
    assert batch["pixel_values"].shape == (2, 3, 8, 16)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.0])
    assert batch["caption_ids"].dtype == torch.int64
    assert batch["caption_ids"].tolist() == [7, 20]


def test_a_flip_keeps_left_and_right():
    collate = PairCollator(side_by_side, num_classes=2, augmentation=ImageAugmentation(flip=1.0))
    pixels = collate([red_and_blue()] * 4)["pixel_values"]
    assert (pixels[:, 0, :, :8] > 0.5).all()
    assert (pixels[:, 2, :, 8:] > 0.5).all()
    assert (pixels[:, 2, :, :8] < 0.2).all()
    assert (pixels[:, 0, :, 8:] < 0.2).all()


def test_left_and_right_are_augmented_each_by_itself():
    pair = red_and_blue()
    pair["images"] = torch.arange(64, dtype=torch.uint8).view(8, 8).expand(2, 3, 8, 8)
    seen = PairCollator(side_by_side, 2, augmentation=ImageAugmentation())([pair])["pixel_values"]
    assert not torch.equal(seen[..., :8], seen[..., 8:])


def test_the_augmentation_sees_single_images():
    shapes = []

    def augmentation(images):
        shapes.append(images.shape)
        return images

    PairCollator(side_by_side, 5, augmentation=augmentation)([item(0, 1)] * 3)
    assert shapes == [(6, 3, 8, 8)]


@pytest.mark.parametrize("mix", ["mix_up", "cut_mix"])
class TestMixtures:
    def test_captions_are_the_product_of_left_and_right(self, mix):
        collate = PairCollator(side_by_side, num_classes=10, mix=mix)
        batch = collate([item(1, 2, shade=0), item(3, 4, shade=255)])
        ids, weights = batch["caption_ids"], batch["caption_weights"]
        assert ids.tolist() == [[12, 14, 32, 34], [34, 32, 14, 12]]
        assert (ids.dtype, weights.dtype) == (torch.int64, torch.float32)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
        # The shares can be read off the pixels: black is the first pair's, white the second's.
        white_left, white_right = (half.mean(dim=(1, 2, 3)) for half in batch["pixel_values"].split(8, dim=-1))
        own_left = torch.stack([1 - white_left[0], white_left[1]])
        own_right = torch.stack([1 - white_right[0], white_right[1]])
        expected = torch.stack(
            [
                own_left * own_right,
                own_left * (1 - own_right),
                (1 - own_left) * own_right,
                (1 - own_left) * (1 - own_right),
            ],
            dim=1,
        )
        torch.testing.assert_close(weights, expected, atol=0.01, rtol=0)

    def test_equal_classes_repeat_their_caption(self, mix):
        batch = PairCollator(side_by_side, num_classes=10, mix=mix)([item(1, 2), item(1, 2)])
        assert batch["caption_ids"].unique().tolist() == [12]
        torch.testing.assert_close(batch["caption_weights"].sum(dim=1), torch.ones(2))

    def test_a_batch_of_one(self, mix):
        batch = PairCollator(side_by_side, num_classes=10, mix=mix)([item(1, 2, shade=51)])
        assert batch["caption_ids"].tolist() == [[12] * 4]
        assert batch["pixel_values"].unique().tolist() == pytest.approx([0.2])

    def test_left_stays_left(self, mix):
        pixels = PairCollator(side_by_side, 2, ImageAugmentation(flip=1.0, color_jitter=0.0), mix)(
            [red_and_blue()] * 4
        )["pixel_values"]
        assert (pixels[:, 0, :, :8] == 1).all()
        assert (pixels[:, 0, :, 8:] == 0).all()


def test_alpha_reaches_the_mixture():
    items = [item(0, 1), item(1, 0)] * 50
    nearly_even = PairCollator(side_by_side, 2, mix="mix_up", mix_alpha=1000.0)(items)["caption_weights"]
    assert (nearly_even - 0.25).abs().max() < 0.05


def test_unknown_mixture():
    with pytest.raises(ValueError, match="`mix` must be one of 'mix_up', 'cut_mix', but got 'mixup'"):
        PairCollator(side_by_side, 2, mix="mixup")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("num_classes", "`num_classes` must be at least 1, but got 0"),
        ("mix_alpha", "`mix_alpha` must be positive, but got 0"),
    ],
)
def test_options_must_be_positive(option, message):
    with pytest.raises(ValueError, match=message):
        PairCollator(**{"processor": side_by_side, "num_classes": 2, option: 0})


@pytest.mark.parametrize("pair", [item(0, 5), item(-1, 0)])
def test_labels_outside_the_classes(pair):
    with pytest.raises(ValueError, match=r"`labels` must be from 0 to 4, but got values from -?\d to \d"):
        PairCollator(side_by_side, num_classes=5)([pair])


@pytest.mark.parametrize("name", ["images", "labels"])
def test_removed_columns(name):
    pair = item(0, 1)
    del pair[name]
    with pytest.raises(
        ValueError, match=rf"the column '{name}', but got .*\. With `Trainer`, set `remove_unused_columns=False`"
    ):
        PairCollator(side_by_side, num_classes=5)([pair])
