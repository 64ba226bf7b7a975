"""Every connector with every fusion: what must hold whichever way images reach the language model."""

import itertools

import pytest
import torch
from tests import tiny
from tests.models.smolvlm.large import chat_model, language_model, language_model_logits
from transformers import AutoModel, AutoModelForCausalLM

from vlmkit import SmolVLM
from vlmkit.compat.cache import CACHE_NAME

CONNECTORS = ("qformer", "perceiver", "mlp", "pixel_shuffle")
FUSIONS = ("autoregressive", "cross_attention")
DESIGNS = list(itertools.product(CONNECTORS, FUSIONS))
# All of one size; or each at its own, split into five crops and padded, with a pixel_attention_mask.
IMAGES = {"alike": {}, "several sizes": {"size": {"longest_edge": 64}, "do_image_splitting": True}}
PHOTOS = [tiny.photo(96, 48), tiny.photo(48, 96, seed=1), tiny.photo(64, 64, seed=2)]
TO_ANSWER = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
Batch = dict[str, torch.Tensor]


def design_model(connector: str, fusion: str, gates: float = 0.7, **fields) -> SmolVLM:
    """With large random weights, and gates that are wide open."""
    text = tiny.llama_config(**tiny.CHAT_TOKENS, initializer_range=0.3, num_hidden_layers=3, tie_word_embeddings=True)
    text.max_position_embeddings = 512
    fields = {"text_config": text, "cross_layer_interval": 2, "num_cross_attention_heads": 4, **fields}
    model = chat_model(connector=connector, fusion=fusion, **fields)
    if model.model.cross_attention is not None:
        with torch.no_grad():
            for name, parameter in model.model.cross_attention.named_parameters():
                parameter.normal_(mean=float(name.endswith("norm.weight")), std=0.3)
                if name.endswith("gate"):
                    parameter.fill_(gates)
    return model


@pytest.fixture(params=DESIGNS, ids="-".join)
def model(request) -> SmolVLM:
    return design_model(*request.param)


@pytest.fixture(params=IMAGES)
def images(request) -> dict:
    return IMAGES[request.param]


def conversations() -> list[list[dict]]:
    """About two images in two turns, about one, and about none."""
    first = [tiny.turn("user", "is this", PHOTOS[0]), tiny.turn("assistant", "a cat")]
    second = [tiny.turn("user", "and this a dog", PHOTOS[1]), tiny.turn("assistant", "a red bus")]
    one = [tiny.turn("user", "a small red circle on the grass", PHOTOS[2]), tiny.turn("assistant", "a dog")]
    none = [tiny.turn("user", "is a tree green"), tiny.turn("assistant", "a tree")]
    return [first + second, one, none]


def lessons(model: SmolVLM, images: dict, **options) -> Batch:
    processor = tiny.crops_processor(model.config, **images)
    return dict(processor.apply_chat_template(conversations(), return_labels=True, **options))


def prompts(model: SmolVLM, images: dict) -> Batch:
    processor = tiny.crops_processor(model.config, **images)
    return dict(processor.apply_chat_template([messages[:-1] for messages in conversations()], **TO_ANSWER))


def write(model: SmolVLM, batch: Batch, **options):
    return model.generate(**batch, **{"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, **options})


def as_tokens(model: SmolVLM, batch: Batch) -> Batch:
    """The same with the vision tower's tokens in place of the pixels."""
    own = {name: batch[name] for name in ("pixel_values", "pixel_attention_mask") if name in batch}
    vision = model.model.vision_tower(**own)
    masks = {} if vision.patch_attention_mask is None else {"patch_attention_mask": vision.patch_attention_mask}
    rest = {name: value for name, value in batch.items() if name not in own}
    return {**rest, "vision_features": vision.last_hidden_state, **masks}


def test_a_training_step_reaches_all_that_trains(model, images):
    batch = lessons(model, images)
    assert ("pixel_attention_mask" in batch) is bool(images)
    expected = model(**batch).loss
    loss = model.train()(**batch).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in trained} >= {"connector", "language_model"}
    assert not [name for name, gradient in trained.items() if gradient is None or not gradient.any()]


def test_a_training_step_opens_closed_gates():
    model = design_model("perceiver", "cross_attention", gates=0.0)
    model.train()(**lessons(model, {})).loss.backward()
    for block in model.model.cross_attention.blocks:
        assert block.attention_gate.grad.abs() > 1e-5
        assert block.feed_forward_gate.grad.abs() > 1e-5


def test_padding_may_be_on_either_side(model, images):
    right = lessons(model, images)
    left = lessons(model, images, processor_kwargs={"padding_side": "left"})
    assert not torch.equal(left["input_ids"], right["input_ids"])
    on_the_right = model(**right).logits[right["attention_mask"] == 1]
    on_the_left = model(**left).logits[left["attention_mask"] == 1]
    torch.testing.assert_close(on_the_left, on_the_right, rtol=1e-4, atol=1e-4)


def test_each_text_equals_the_one_alone(model, images):
    """Whose images are padded to another size."""
    together = lessons(model, images)
    logits = model(**together).logits
    processor = tiny.crops_processor(model.config, **images)
    for row, messages in enumerate(conversations()):
        alone = processor.apply_chat_template(messages, return_labels=True)
        attended = together["attention_mask"][row] == 1
        torch.testing.assert_close(model(**alone).logits[0], logits[row, attended], rtol=1e-4, atol=1e-4)


def test_an_image_changes_its_own_text_from_its_placeholder_on(model, images):
    batch = lessons(model, images)
    before, num_crops = model(**batch).logits, 5 if images else 1
    image_token_mask = batch["input_ids"] == tiny.IMAGE_TOKEN_ID
    middle = int(
        image_token_mask[0].nonzero()[int(image_token_mask[0].sum()) // 2]
    )  # both images of the first text have as many
    starts = [int(image_token_mask[0].nonzero()[0]), middle, int(image_token_mask[1].nonzero()[0])]
    for image, (row, column) in enumerate(zip((0, 0, 1), starts, strict=True)):
        changed = {**batch, "pixel_values": batch["pixel_values"].clone()}
        changed["pixel_values"][image * num_crops : (image + 1) * num_crops] *= -1
        difference = (model(**changed).logits - before).abs().amax(dim=2)
        attended = batch["attention_mask"][row, column:] == 1
        assert (difference[row, column:][attended] > 1e-4).all()
        assert difference[row, :column].max() < 1e-4
        assert difference[[other for other in range(3) if other != row]].max() < 1e-4


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_generation_is_the_same_with_and_without_a_cache(model, images, options):
    batch = prompts(model, images)
    cached, plain = write(model, batch, **options), write(model, batch, use_cache=False, **options)
    assert torch.equal(cached, plain)
    words = cached[:, batch["input_ids"].shape[1] :]
    assert len(words.unique()) > 4  # a model that repeats one word would hide mistakes


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_in_a_batch_equals_single_runs(model, images, num_beams):
    """Beams repeat the images of a text in their order."""
    options = {"num_beams": num_beams, "return_dict_in_generate": True, "output_logits": True, "output_scores": True}
    batch = prompts(model, images)
    together, processor = write(model, batch, **options), tiny.crops_processor(model.config, **images)
    for row, messages in enumerate(conversations()):
        alone = write(model, processor.apply_chat_template(messages[:-1], **TO_ANSWER), **options)
        assert torch.equal(alone.sequences[0, -8:], together.sequences[row, -8:])
    order = [1, 0, 2] if len(batch["pixel_values"]) == 3 else [*range(5, 10), *range(5), *range(10, 15)]
    swapped = write(model, {**batch, "pixel_values": batch["pixel_values"][order]}, **options)
    difference = (swapped.logits[0] - together.logits[0]).abs().amax(dim=-1).view(3, -1).amax(dim=1)
    assert difference[0] > 1e-3
    assert difference[1:].max() < 1e-4


@pytest.mark.parametrize("options", [{"prefill_chunk_size": 5}, {"cache_implementation": "static"}], ids=str)
def test_chunked_prefill_and_a_static_cache_give_the_same(model, images, options):
    batch = prompts(model, images)
    assert torch.equal(write(model, batch, **options), write(model, batch))


def test_vision_features_replace_pixels(model, images):
    batch = lessons(model, images)
    tokens = as_tokens(model, batch)
    assert ("patch_attention_mask" in tokens) is ("pixel_attention_mask" in batch)
    torch.testing.assert_close(model(**tokens).logits, model(**batch).logits)
    asked = prompts(model, images)
    for options in ({}, {"num_beams": 3}):
        assert torch.equal(write(model, as_tokens(model, asked), **options), write(model, asked, **options))


def test_encoded_images_can_be_reused_in_place_of_pixels(model, images):
    batch = prompts(model, images)
    expected = write(model, batch, num_beams=3)
    features = model.get_image_features(
        batch.pop("pixel_values"), pixel_attention_mask=batch.pop("pixel_attention_mask", None)
    )
    for _ in range(2):
        assert torch.equal(write(model, {**batch, "mm_encoder_outputs": {"image": features}}, num_beams=3), expected)
    assert len(features.pooler_output) == (15 if images else 3)


def test_a_text_without_images_gives_the_logits_of_the_language_model(model):
    """Bit by bit, however wide the gates are open."""
    ids = torch.randint(3, tiny.IMAGE_TOKEN_ID, (2, 9))
    assert torch.equal(model(input_ids=ids).logits, language_model_logits(model, input_ids=ids))
    written = write(model, {"input_ids": ids})
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "suppress_tokens": [tiny.IMAGE_TOKEN_ID]}
    assert torch.equal(written, language_model(model).generate(ids, **options))


@pytest.mark.parametrize("connector", CONNECTORS)
@pytest.mark.parametrize("text", ["llama", "gpt2"])
def test_with_closed_gates_images_change_nothing(connector, text, images):
    chosen = {} if text == "llama" else {"text_config": tiny.text_config(initializer_range=0.3, **tiny.CHAT_TOKENS)}
    model = design_model(connector, "cross_attention", gates=0.0, **chosen)
    batch = lessons(model, images)
    expected = language_model_logits(model, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    attended = batch["attention_mask"] == 1
    assert torch.equal(model(**batch).logits[attended], expected[attended])
    opened = design_model(connector, "cross_attention", **chosen)
    assert (opened(**batch).logits[attended] - expected[attended]).abs().max() > 0.1


def test_what_is_saved_comes_back(model, images, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is SmolVLM
    assert not any(report.values()), report
    for field in ("connector", "fusion", "num_query_tokens", "cross_layer_interval", "num_cross_attention_heads"):
        assert getattr(loaded.config, field) == getattr(model.config, field)
    batch = lessons(model, images)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
    loaded.load_state_dict(model.state_dict(), strict=True)


def test_a_checkpoint_of_the_language_model_alone_still_loads(model):
    other = AutoModelForCausalLM.from_config(model.config.text_config)
    model.model.language_model.load_state_dict(other.base_model.state_dict(), strict=True)
    model.lm_head.load_state_dict(other.get_output_embeddings().state_dict(), strict=True)
    ids = torch.randint(3, tiny.IMAGE_TOKEN_ID, (2, 9))
    assert torch.equal(model(input_ids=ids).logits, other.eval()(input_ids=ids).logits)


class TestSeveralTurns:
    """The second turn shows another image, of another size."""

    @pytest.fixture
    def turns(self, model, images) -> tuple[Batch, Batch]:
        processor, [messages, *_] = tiny.crops_processor(model.config, **images), conversations()
        first = processor.apply_chat_template(messages[:1], **TO_ANSWER)
        answer = [tiny.turn("assistant", "a"), messages[2]]
        return dict(first), dict(processor.apply_chat_template([messages[0], *answer], **TO_ANSWER))

    def test_continue_with_a_cache(self, model, turns):
        first, second = turns
        past = write(model, first, return_dict_in_generate=True)[CACHE_NAME]
        past.crop(first["input_ids"].shape[1] - past.get_seq_length())  # another answer than was written
        expected, seen = write(model, second), []
        model.model.vision_tower.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
        assert torch.equal(write(model, second, cache=past), expected)
        num_crops = len(first["pixel_values"])  # where images stand in the text, the cache holds the first one
        assert seen == [num_crops if model.config.fusion == "autoregressive" else 2 * num_crops]

    def test_too_few_images_are_rejected(self, model, turns):
        short = {name: value[1:] if name.startswith("pixel") else value for name, value in turns[1].items()}
        del short["num_crops"]
        with pytest.raises(ValueError, match=r"The texts must have \d+ image tokens for the \d+ images, but got \d+"):
            write(model, short)

    def test_new_tokens_alone_would_miss_the_cached_images(self):
        model = design_model("mlp", "cross_attention")
        new = {"input_ids": torch.tensor([[5, 7]]), "attention_mask": torch.ones(1, 20, dtype=torch.long)}
        with pytest.raises(
            ValueError, match=r"Images in the cache are not kept .* Pass `input_ids` of the whole conversation"
        ):
            write(model, new)


@pytest.mark.parametrize("num_images", [None, 2, 4])
def test_images_that_do_not_match_the_placeholders_are_rejected(model, num_images):
    batch = lessons(model, {})
    pixels = batch.pop("pixel_values")
    del batch["num_crops"]
    images = {} if num_images is None else {"pixel_values": pixels[:1].expand(num_images, -1, -1, -1)}
    message = rf"image tokens for the {num_images or 0} images, but got \d+\. Pass one image for each image placeholder"
    for train in (False, True):
        with pytest.raises(ValueError, match=message):
            model.train(train)(**batch, **images)
    with pytest.raises(ValueError, match=message):
        write(model.eval(), {name: value for name, value in batch.items() if name != "labels"} | images)


def test_a_mask_without_images_is_rejected(model):
    batch = lessons(model, {})
    mask = torch.ones_like(batch.pop("pixel_values")[:, 0])
    with pytest.raises(ValueError, match="Pass the images either as `pixel_values` or as `vision_features`"):
        model(**batch, pixel_attention_mask=mask)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_incomplete_or_doubled_cross_attention_states_are_rejected(fusion):
    model = design_model("perceiver", fusion)
    batch = lessons(model, {})
    computed = {
        "cross_attention_states": torch.rand(3, 2, 2, 4, 2, 4),
        "cross_attention_positions": torch.zeros(3, 2, dtype=torch.long),
    }
    if fusion == "autoregressive":
        faults, message = [computed], "`cross_attention_states` must not be passed to a model without cross-attention"
    else:
        faults = [computed, {"cross_attention_positions": computed["cross_attention_positions"]}]
        message = "either images, or `cross_attention_states` and `cross_attention_positions`, but not both"
        del batch["pixel_values"]
        with pytest.raises(ValueError, match=message):
            model(**batch, cross_attention_states=computed["cross_attention_states"])
        batch = lessons(model, {})
    for given in faults:
        with pytest.raises(ValueError, match=message):
            model(**batch, **given)


def test_square_images_without_a_mask_have_tokens_in_one_tensor():
    model = chat_model(connector="pixel_shuffle")
    assert model.get_image_features(torch.rand(2, 3, 32, 32)).pooler_output.shape[0] == 2


def test_an_image_that_is_no_square_is_shuffled_in_its_own_grid():
    vision = tiny.vision_config(image_size=(16, 64), patch_size=8)  # a grid of 2 x 8, which 4 x 4 would hold, too
    model = chat_model(connector="pixel_shuffle", vision_config=vision)
    pixels = torch.rand(2, 3, 16, 64)
    embeds = model.get_image_features(pixels).pooler_output
    masked = model.get_image_features(pixels, pixel_attention_mask=torch.ones(2, 16, 64)).pooler_output
    torch.testing.assert_close(torch.stack(list(embeds)), torch.stack(list(masked)), rtol=0, atol=0)
    assert len(embeds[0]) == 4
