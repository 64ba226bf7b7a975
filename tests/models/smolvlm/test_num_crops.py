"""Images of several crops: features for each image, and what is passed as `num_crops` and as 5-D pixels."""

import pytest
import torch
from tests import tiny
from tests.models.smolvlm.large import IMAGE
from tests.models.smolvlm.test_designs import CONNECTORS, DESIGNS, FUSIONS, as_tokens, design_model, prompts, write

from vlmkit import SmolVLM
from vlmkit.compat.cache import CACHE_NAME

SPLIT = {"do_image_splitting": True}
ASPECT = {**SPLIT, "size": {"longest_edge": 64}}
PHOTOS = [tiny.photo(96, 48), tiny.photo(48, 96, seed=1), tiny.photo(64, 64, seed=2)]
PIXELS = torch.rand(11, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def features(model: SmolVLM, **images) -> list[torch.Tensor]:
    return list(model.get_image_features(**images).pooler_output)


def batch_of(model: SmolVLM, num_images: int = 3, **settings) -> dict[str, torch.Tensor]:
    """A text for each image."""
    processor = tiny.crops_processor(model.config, **settings)
    return dict(processor(PHOTOS[:num_images], ["<image> a dog"] * num_images, return_tensors="pt"))


def placeholders(crops: int) -> list[int]:
    return IMAGE * crops


@pytest.mark.parametrize("connector", CONNECTORS)
class TestFeatures:
    def test_of_images_with_equal_numbers_of_crops_are_one_tensor(self, connector):
        model, counts = design_model(connector, "autoregressive"), torch.tensor([5, 5])
        crops = model.get_image_features(PIXELS[:10])
        images = model.get_image_features(PIXELS[:10], num_crops=counts)
        assert images.pooler_output.shape == (2, 5 * crops.pooler_output.shape[1], 16)
        joined = torch.stack([torch.cat(list(crops.pooler_output[row : row + 5])) for row in (0, 5)])
        torch.testing.assert_close(images.pooler_output, joined, rtol=0, atol=0)
        torch.testing.assert_close(images.last_hidden_state, crops.last_hidden_state, rtol=0, atol=0)
        assert len(images.last_hidden_state) == 10

    def test_of_images_with_unequal_numbers_of_crops_are_a_list(self, connector):
        model = design_model(connector, "autoregressive")
        crops = features(model, pixel_values=PIXELS)
        images = model.get_image_features(PIXELS, num_crops=torch.tensor([5, 1, 5])).pooler_output
        assert isinstance(images, list)
        expected = [torch.cat(crops[start:end]) for start, end in ((0, 5), (5, 6), (6, 11))]
        torch.testing.assert_close(images, expected, rtol=0, atol=0)

    def test_without_num_crops_each_crop_is_an_image(self, connector):
        model = design_model(connector, "autoregressive")
        expected = model.get_image_features(PIXELS, num_crops=torch.ones(11, dtype=torch.long)).pooler_output
        torch.testing.assert_close(model.get_image_features(PIXELS).pooler_output, expected, rtol=0, atol=0)

    @pytest.mark.parametrize("settings", [SPLIT, ASPECT], ids=str)
    def test_there_is_one_for_each_placeholder_of_the_processor(self, connector, settings):
        model = design_model(connector, "autoregressive")
        batch = batch_of(model, **settings)
        assert batch["num_crops"].tolist() == [5, 5, 5]
        images = {name: value for name, value in batch.items() if name.startswith(("pixel", "num"))}
        lengths = (batch["input_ids"] == tiny.IMAGE_TOKEN_ID).sum(dim=1).tolist()
        assert [len(image) for image in features(model, **images)] == lengths
        outputs = model(**batch)
        torch.testing.assert_close(list(outputs.image_hidden_states), features(model, **images))

    def test_of_features_of_the_vision_tower(self, connector):
        model = design_model(connector, "autoregressive")
        batch = batch_of(model, **ASPECT)
        tokens = as_tokens(model, batch)
        assert tokens["num_crops"] is batch["num_crops"]
        expected, outputs = model(**batch), model(**tokens)
        torch.testing.assert_close(list(outputs.image_hidden_states), list(expected.image_hidden_states))
        torch.testing.assert_close(outputs.logits, expected.logits)


@pytest.mark.parametrize("connector", CONNECTORS)
def test_with_cross_attention_each_crop_has_its_own_features(connector):
    model = design_model(connector, "cross_attention")
    crops = features(model, pixel_values=PIXELS)
    assert len(crops) == 11
    images = features(model, pixel_values=PIXELS, num_crops=torch.tensor([5, 1, 5]))
    torch.testing.assert_close(images, crops, rtol=0, atol=0)


@pytest.mark.parametrize(("connector", "fusion"), DESIGNS)
class TestFiveDimensions:
    """`(I, crops, 3, H, W)`, as servers batch images, with a mask in one tensor or in one for each image."""

    def forms(self, batch: dict[str, torch.Tensor]) -> list[dict]:
        pixels = {"pixel_values": batch["pixel_values"].unflatten(0, (-1, 5))}
        if "pixel_attention_mask" not in batch:
            return [pixels]
        mask = batch["pixel_attention_mask"].unflatten(0, (-1, 5))
        masks = [mask, list(mask), tuple(mask)]
        return [{**pixels, "pixel_attention_mask": each} for each in masks]

    @pytest.mark.parametrize("settings", [SPLIT, ASPECT], ids=str)
    def test_equal_the_flat_form(self, connector, fusion, settings):
        model = design_model(connector, fusion)
        batch = batch_of(model, **settings)
        texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
        flat = {name: value for name, value in batch.items() if name not in texts}
        expected, written = model(**batch), write(model, batch)
        forms = self.forms(batch)
        assert len(forms) == (3 if "size" in settings else 1)
        for form in forms:
            for images in (form, {**form, "num_crops": batch["num_crops"]}):
                torch.testing.assert_close(features(model, **images), features(model, **flat), rtol=0, atol=0)
                torch.testing.assert_close(model(**texts, **images).logits, expected.logits, rtol=0, atol=0)
                assert torch.equal(write(model, {**texts, **images}), written)

    def test_an_empty_batch_of_images_equals_none(self, connector, fusion):
        model, ids = design_model(connector, fusion), torch.tensor([[1, 5]])
        images = {"pixel_values": PIXELS[:0], "num_crops": []}
        torch.testing.assert_close(model(input_ids=ids, **images).logits, model(input_ids=ids).logits, rtol=0, atol=0)

    def test_a_flat_form_may_have_a_mask_for_each_image(self, connector, fusion):
        model = design_model(connector, fusion)
        batch = batch_of(model, **ASPECT)
        masks = list(batch["pixel_attention_mask"].split(5))
        outputs = model(**{**batch, "pixel_attention_mask": masks})
        torch.testing.assert_close(outputs.logits, model(**batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
class TestWrongNumbers:
    @pytest.mark.parametrize("counts", [[5, 5], [5, 7], [11, 0], [12, -1], [], [11, 11]], ids=str)
    def test_that_do_not_add_up_are_rejected(self, counts, fusion):
        model = design_model("perceiver", fusion)
        text = [1, *(placeholders(11) if fusion == "autoregressive" else IMAGE[:1] * 11), 5]
        images = {"pixel_values": PIXELS, "num_crops": torch.tensor(counts, dtype=torch.long)}
        message = rf"at least 1 for each image and add up to the number of crops 11, but got \[{str(counts)[1:-1]}\]"
        for call in (
            lambda: model.get_image_features(**images),
            lambda: model(input_ids=torch.tensor([text]), **images),
            lambda: model.generate(input_ids=torch.tensor([text]), **images, max_new_tokens=2),
        ):
            with pytest.raises(ValueError, match=message):
                call()

    @pytest.mark.parametrize("counts", [torch.tensor([5.0, 6.0]), torch.tensor(11), [5.5, 5.5]], ids=str)
    def test_that_are_not_a_vector_of_integers_are_rejected(self, counts, fusion):
        with pytest.raises(ValueError, match="`num_crops` must be a vector of integers"):
            design_model("perceiver", fusion).get_image_features(PIXELS, num_crops=counts)

    def test_pixels_of_three_dimensions_are_rejected(self, fusion):
        with pytest.raises(ValueError, match=r"`pixel_values` must have the shape .* but got \(3, 32, 32\)"):
            design_model("perceiver", fusion).get_image_features(PIXELS[0])

    def test_that_contradict_five_dimensions_are_rejected(self, fusion):
        model = design_model("perceiver", fusion)
        images = {"pixel_values": PIXELS[:10].unflatten(0, (2, 5)), "num_crops": torch.tensor([3, 7])}
        message = r"`num_crops` must be \[5, 5\] for `pixel_values` of the shape \(2, 5, 3, 32, 32\), but got \[3, 7\]"
        with pytest.raises(ValueError, match=message):
            model.get_image_features(**images)
        with pytest.raises(ValueError, match=message):
            model.generate(input_ids=torch.tensor([[1, 5]]), **images)

    def test_are_rejected_in_a_conversation_that_continues(self, fusion):
        model = design_model("perceiver", fusion)
        size = 3 if fusion == "autoregressive" else 1
        ids = torch.tensor([[1, *IMAGE[:size] * 2, 5, 7]])
        pixels = PIXELS[:2]
        first = {"input_ids": ids, "pixel_values": pixels, "num_crops": torch.tensor([2])}
        past = write(model, first, return_dict_in_generate=True)
        second = {"input_ids": torch.cat([past.sequences, ids], dim=1), "pixel_values": PIXELS[:4]}
        with pytest.raises(ValueError, match=r"add up to the number of crops 4, but got \[2, 1\]"):
            write(model, {**second, "num_crops": torch.tensor([2, 1])}, cache=past[CACHE_NAME])


@pytest.mark.parametrize("connector", ["qformer", "mlp"])
class TestConversations:
    """Turns whose images are split into different numbers of crops."""

    TURNS = ([5, 1], [1, 5], [2])

    def turn(self, model: SmolVLM, counts: list[int], word: int) -> list[int]:
        per_crop = len(model.get_image_features(PIXELS[:1]).pooler_output[0])
        ids = [1, 5]
        for count in counts:
            ids += [*[tiny.IMAGE_TOKEN_ID] * (per_crop * count), word]
        return [*ids, 2, 3]

    def pixels(self, counts: list[int], seed: int) -> torch.Tensor:
        return torch.rand(sum(counts), 3, 32, 32, generator=torch.Generator().manual_seed(seed))

    def batch(self, model: SmolVLM) -> dict[str, torch.Tensor]:
        """One image of five crops, and two of one crop each, padded on the left."""
        texts = [self.turn(model, images, 9) for images in ([5], [1, 1])]
        width = max(len(text) for text in texts)
        return {
            "input_ids": torch.tensor([[2] * (width - len(text)) + text for text in texts]),
            "attention_mask": torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts]),
            "pixel_values": PIXELS[:7],
            "num_crops": torch.tensor([5, 1, 1]),
        }

    def test_continue_with_the_crops_of_new_images_only(self, connector):
        model, seen = design_model(connector, "autoregressive"), []
        ids, pixels, counts, past = torch.empty(1, 0, dtype=torch.long), PIXELS[:0], [], None
        for seed, images in enumerate(self.TURNS):
            ids = torch.cat([ids, torch.tensor([self.turn(model, images, 7 + seed)])], dim=1)
            pixels, counts = torch.cat([pixels, self.pixels(images, seed)]), counts + images
            batch = {"input_ids": ids, "pixel_values": pixels, "num_crops": torch.tensor(counts)}
            expected = write(model, batch)
            handle = model.model.vision_tower.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
            cached = write(model, batch, cache=past, return_dict_in_generate=True)
            handle.remove()
            assert torch.equal(cached.sequences, expected)
            assert seen == [sum(turn) for turn in self.TURNS[: seed + 1]]
            ids, past = cached.sequences, cached[CACHE_NAME]

    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_of_a_batch_equal_those_alone(self, connector, num_beams):
        model = design_model(connector, "autoregressive")
        batch = self.batch(model)
        together = write(model, batch, num_beams=num_beams)
        assert torch.equal(write(model, batch, num_beams=num_beams, use_cache=False), together)
        for row, (own, counts) in enumerate(((slice(0, 5), [5]), (slice(5, 7), [1, 1]))):
            ids = batch["input_ids"][row : row + 1, batch["attention_mask"][row] == 1]
            alone = {"input_ids": ids, "pixel_values": batch["pixel_values"][own]}
            written = write(model, {**alone, "num_crops": torch.tensor(counts)}, num_beams=num_beams)
            assert torch.equal(written[0, -8:], together[row, -8:])

    def test_of_a_batch_continue_with_a_cache(self, connector):
        model = design_model(connector, "autoregressive")
        batch = self.batch(model)
        mask, pixels = batch["attention_mask"], batch["pixel_values"]
        answer = write(model, batch, return_dict_in_generate=True)
        new = [self.turn(model, images, 11) for images in ([2, 1], [3])]
        assert len(new[0]) == len(new[1]) + 1  # one more word
        new[1] = [5, *new[1]]
        ids = torch.cat([answer.sequences, torch.tensor(new)], dim=1)
        mask = torch.cat([mask, torch.ones(2, ids.shape[1] - mask.shape[1], dtype=torch.long)], dim=1)
        fresh = self.pixels([2, 1, 3], seed=5)
        pixels = torch.cat([pixels[:5], fresh[:3], pixels[5:], fresh[3:]])
        second = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
        second["num_crops"] = torch.tensor([5, 2, 1, 1, 1, 3])
        assert torch.equal(write(model, second, cache=answer[CACHE_NAME]), write(model, second))


def test_a_batch_of_prompts_has_the_number_of_crops_of_each_image():
    model = design_model("mlp", "autoregressive")
    batch = prompts(model, ASPECT)
    assert batch["num_crops"].tolist() == [5, 5, 5]
    lengths = [len(image) for image in features(model, **{n: v for n, v in batch.items() if n[:3] in ("pix", "num")})]
    of_texts = (batch["input_ids"] == tiny.IMAGE_TOKEN_ID).sum(dim=1).tolist()
    assert of_texts == [lengths[0] + lengths[1], lengths[2], 0]
