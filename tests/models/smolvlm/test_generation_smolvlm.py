"""Answering with everything that transformers' `generate` offers, in one turn and in several."""

import pytest
import torch
from tests import tiny
from tests.models.smolvlm.large import IMAGE, chat_model, language_model, prompts
from transformers import GenerationConfig, StaticCache, TextStreamer

from vlmkit import SmolVLM
from vlmkit.compat.cache import CACHE_NAME

LENGTH = prompts()["input_ids"].shape[1]


@pytest.fixture(params=["llama", "gpt2", "gpt_neo"])
def model(request) -> SmolVLM:
    return chat_model(request.param)


def write(model: SmolVLM, batch: dict[str, torch.Tensor], **options) -> torch.Tensor:
    torch.manual_seed(0)
    return model.generate(**batch, **{"max_new_tokens": 12, "min_new_tokens": 8, **options})


SCORES = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}


def scores_of(written) -> torch.Tensor:
    """Of the beams, or of every word."""
    scores = written.get("sequences_scores")
    return torch.stack(written.logits, dim=1) if scores is None else scores


def count_images(model: SmolVLM) -> dict[str, list[int]]:
    """How many images each call of the vision tower and of the connector gets from now on."""
    calls: dict[str, list[int]] = {"vision_tower": [], "connector": []}
    for name, seen in calls.items():
        model.model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(len(args[0]))
        )
    return calls


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
        {"do_sample": True, "temperature": 0.6, "top_k": 40, "top_p": 0.9, "num_return_sequences": 2},
        {"do_sample": True, "num_beams": 2},
        {"repetition_penalty": 1.8, "min_length": 9},
        {"no_repeat_ngram_size": 2, "bad_words_ids": [[7], [8, 9]]},
    ],
    ids=lambda options: "-".join(options) or "greedy",
)
def test_generation_is_the_same_with_and_without_a_cache(model, options):
    """In a batch of texts with two images, none and one."""
    batch = prompts()
    cached, plain = write(model, batch, **options), write(model, batch, use_cache=False, **options)
    assert torch.equal(cached, plain)
    assert len(cached) == 3 * options.get("num_return_sequences", 1)
    assert len({tuple(row) for row in cached[:, LENGTH:].tolist()}) > 1
    assert len(cached[:, LENGTH:].unique()) > 4  # a model that repeats one word would hide mistakes


def test_greedy_takes_the_likeliest_token_each_time(model):
    batch = prompts()
    written = write(model, batch, min_new_tokens=12)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for _ in range(12):
        logits = model(input_ids=ids, attention_mask=mask, pixel_values=batch["pixel_values"]).logits[:, -1]
        logits[:, [tiny.IMAGE_TOKEN_ID, tiny.TURN_END]] = -torch.inf
        ids = torch.cat([ids, logits.argmax(dim=1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], dim=1)
    assert torch.equal(written, ids)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_with_different_numbers_of_images_equals_single_runs(model, num_beams):
    """Beams repeat the images of a text in their order."""
    batch = prompts()
    options = {"min_new_tokens": 12, "num_beams": num_beams, "num_return_sequences": num_beams, **SCORES}
    together = write(model, batch, **options)
    for row, images in enumerate(([0, 1], [], [2])):
        attended = batch["attention_mask"][row] == 1
        alone = {"input_ids": batch["input_ids"][row : row + 1, attended]}
        if images:
            alone["pixel_values"] = batch["pixel_values"][images]
        written, own = write(model, alone, **options), slice(row * num_beams, (row + 1) * num_beams)
        assert torch.equal(written.sequences[:, -12:], together.sequences[own, LENGTH:])
        torch.testing.assert_close(scores_of(written), scores_of(together)[own], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}], ids=str)
def test_images_are_encoded_once(model, options):
    calls = count_images(model)
    write(model, prompts(), **options)
    assert calls == {"vision_tower": [3], "connector": [3]}


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_order_of_images_matters_to_their_own_text_only(model, num_beams):
    batch = prompts()
    swapped = {**batch, "pixel_values": batch["pixel_values"][[1, 0, 2]]}
    first, second = (scores_of(write(model, each, num_beams=num_beams, **SCORES)) for each in (batch, swapped))
    assert (first[0] - second[0]).abs().max() > 5e-4
    torch.testing.assert_close(first[1:], second[1:], rtol=0, atol=1e-5)


def test_scores_are_those_of_the_forward_pass(model):
    batch = prompts()
    output = write(model, batch, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(output.sequences, write(model, batch))
    mask = torch.cat([batch["attention_mask"], torch.ones(3, len(output.logits), dtype=torch.long)], dim=1)
    whole = model(input_ids=output.sequences, attention_mask=mask, pixel_values=batch["pixel_values"]).logits
    torch.testing.assert_close(torch.stack(output.logits, dim=1), whole[:, LENGTH - 1 : -1], rtol=1e-4, atol=1e-4)


def test_image_tokens_are_never_generated():
    model = chat_model()
    bias = {(tiny.IMAGE_TOKEN_ID,): 1000.0}
    for options in ({}, {"num_beams": 3}, {"do_sample": True}):
        assert not (write(model, prompts(), sequence_bias=bias, **options)[:, LENGTH:] == tiny.IMAGE_TOKEN_ID).any()
    model.generation_config.suppress_tokens = None
    assert (write(model, prompts(), sequence_bias=bias)[:, LENGTH:] == tiny.IMAGE_TOKEN_ID).all()


class TestWaysToGiveInputs:
    @pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
    def test_vision_features_replace_pixels(self, model, options):
        batch = prompts()
        expected = write(model, batch, **options)
        tokens = model.model.vision_tower(batch.pop("pixel_values")).last_hidden_state
        assert torch.equal(write(model, {**batch, "vision_features": tokens}, **options), expected)

    @pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
    def test_encoded_images_can_be_reused_in_place_of_pixels(self, model, options):
        batch = prompts()
        expected = write(model, batch, **options)
        features = {"image": model.get_image_features(batch.pop("pixel_values"))}
        for _ in range(2):
            assert torch.equal(write(model, {**batch, "mm_encoder_outputs": features}, **options), expected)
        assert features["image"].pooler_output.shape == (3, 3, 16)

    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
    @pytest.mark.parametrize("given", ["first argument", "inputs", "inputs_embeds"])
    def test_a_text_may_be_given_in_other_ways(self, model, given, options):
        batch = prompts()
        expected = write(model, batch, **options)
        ids, lengths = batch.pop("input_ids"), {"max_new_tokens": 12, "min_new_tokens": 8, **options}
        if given == "first argument":
            assert torch.equal(model.generate(ids, **batch, **lengths), expected)
        elif given == "inputs":
            assert torch.equal(model.generate(inputs=ids, **batch, **lengths), expected)
        else:
            embeds = model.get_input_embeddings()(ids)
            assert torch.equal(model.generate(inputs_embeds=embeds, **batch, **lengths), expected[:, LENGTH:])

    def test_a_text_may_have_no_images(self, model):
        alone = {"input_ids": prompts()["input_ids"][1:2]}
        expected = language_model(model).generate(
            **alone, max_new_tokens=12, min_new_tokens=8, suppress_tokens=[tiny.IMAGE_TOKEN_ID]
        )
        assert torch.equal(write(model, alone), expected)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pixel_values": None}, "must have 0 image tokens for the 0 images, but got 9"),
            (
                {"pixel_values": torch.rand(2, 3, 32, 32)},
                "must have 6 image tokens for the 2 images, but got 9",
            ),
            (
                {"pixel_values": torch.rand(4, 3, 32, 32)},
                r"must have 12 image tokens for the 4 images, but got 9\. Pass one image for each image placeholder",
            ),
            (
                {"vision_features": torch.rand(3, 5, 16)},
                "Pass the images either as `pixel_values` or as `vision_features`",
            ),
            ({"mm_encoder_outputs": {"image": None}}, "either images or the `mm_encoder_outputs` .* but not both"),
            ({"max_new_token": 3}, "max_new_token"),
        ],
    )
    def test_bad_calls_are_rejected(self, change, message):
        with pytest.raises(ValueError, match=message):
            chat_model().generate(**{"max_new_tokens": 3, **prompts(), **change})


class TestTools:
    @pytest.mark.parametrize("text", ["llama", "gpt2"])
    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
    def test_a_static_cache_gives_the_same(self, text, options):
        model, batch = chat_model(text), prompts()
        expected = write(model, batch, **options)
        assert torch.equal(write(model, batch, cache_implementation="static", **options), expected)

    def test_a_static_cache_is_rejected_for_models_without_support(self):
        model, batch = chat_model("gpt_neo"), prompts()
        for options in (
            {"cache_implementation": "static"},
            {"generation_config": GenerationConfig(cache_implementation="static")},
            {"cache": StaticCache(model.config, max_cache_len=40)},
        ):
            with pytest.raises(ValueError, match=r"GPTNeoModel does not support static caches\. Use a `DynamicCache`"):
                model.generate(**batch, max_new_tokens=3, **options)

    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
    @pytest.mark.parametrize("size", [1, 2, 4, 7, 100])
    def test_chunked_prefill_gives_the_same(self, model, size, options):
        """That end within images, too."""
        batch = prompts()
        expected = write(model, batch, **options)
        assert torch.equal(write(model, batch, prefill_chunk_size=size, **options), expected)

    def test_prompt_lookup_decoding_writes_the_same(self, model):
        batch = {name: value[2:] for name, value in prompts().items()}
        assert torch.equal(write(model, batch, prompt_lookup_num_tokens=3), write(model, batch))

    def test_a_streamer_prints_the_text(self, model, capsys):
        batch, tokenizer = {name: value[2:] for name, value in prompts().items()}, tiny.smolvlm_processor().tokenizer
        model.generation_config.suppress_tokens = [3, *range(tiny.IMAGE_TOKEN_ID, 99)]  # words only, of one line
        written = write(model, batch, streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True))
        expected = tokenizer.decode(written[0, LENGTH:], skip_special_tokens=True)
        assert len(expected.split()) >= 8
        assert capsys.readouterr().out.strip() == expected


FIRST = [1, 5, 3, *IMAGE, 7, 8, 2, 3, 1, 6, 3]
SECOND = [2, 3, 1, 5, 3, *IMAGE, 9, *IMAGE, 2, 3, 1, 6, 3]
PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class TestSeveralTurns:
    @pytest.fixture
    def answer(self, model):
        """Of the first turn, with its cache."""
        first = {"input_ids": torch.tensor([FIRST]), "pixel_values": PIXELS[:1]}
        return write(model, first, return_dict_in_generate=True)

    def whole(self, answer) -> torch.Tensor:
        return torch.cat([answer.sequences, torch.tensor([SECOND])], dim=1)

    @pytest.fixture
    def expected(self, model, answer) -> torch.Tensor:
        """The second answer, without the cache."""
        return write(model, {"input_ids": self.whole(answer), "pixel_values": PIXELS})

    def test_images_are_encoded_once_in_a_conversation(self):
        model = chat_model()
        calls = count_images(model)
        first = {"input_ids": torch.tensor([FIRST]), "pixel_values": PIXELS[:1]}
        answer = write(model, first, return_dict_in_generate=True)
        assert calls == {"vision_tower": [1], "connector": [1]}
        second = {"input_ids": self.whole(answer), "pixel_values": PIXELS}
        answer = write(model, second, cache=answer[CACHE_NAME], return_dict_in_generate=True)
        assert calls == {"vision_tower": [1, 2], "connector": [1, 2]}
        ids = torch.cat([answer.sequences, torch.tensor([[2, 3, 1, 5, 3, 9, 2, 3, 1, 6, 3]])], dim=1)
        third = {"input_ids": ids, "pixel_values": PIXELS}
        written = write(model, third, cache=answer[CACHE_NAME])
        assert calls == {"vision_tower": [1, 2], "connector": [1, 2]}
        assert torch.equal(written, write(model, third))

    def test_only_new_tokens_are_computed(self, model, answer, expected):
        lengths = []
        model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        second = {"input_ids": self.whole(answer), "pixel_values": PIXELS}
        written = write(model, second, cache=answer[CACHE_NAME])
        assert torch.equal(written, expected)
        assert lengths[:2] == [len(SECOND) + 1, 1]  # the last word of the answer had not been read

    def test_vision_features_replace_pixels(self, model, answer, expected):
        tokens = model.model.vision_tower(PIXELS).last_hidden_state
        second = {"input_ids": self.whole(answer), "vision_features": tokens}
        assert torch.equal(write(model, second, cache=answer[CACHE_NAME]), expected)

    def test_new_tokens_and_a_mask_of_all_are_enough(self, model, answer, expected):
        whole = self.whole(answer)
        num_cached = answer[CACHE_NAME].get_seq_length()
        new = {
            "input_ids": whole[:, num_cached:],
            "attention_mask": torch.ones_like(whole),
            "pixel_values": PIXELS[1:],
        }
        written = write(model, new, cache=answer[CACHE_NAME])
        assert torch.equal(written, expected[:, num_cached:])

    def test_a_static_cache_can_be_continued(self):
        model = chat_model()
        cache = StaticCache(model.config, max_cache_len=100)
        first = {"input_ids": torch.tensor([FIRST]), "pixel_values": PIXELS[:1]}
        answer = write(model, first, cache=cache, return_dict_in_generate=True)
        second = {"input_ids": self.whole(answer), "pixel_values": PIXELS}
        calls = count_images(model)
        written = write(model, second, cache=cache)
        assert calls["vision_tower"] == [2]
        assert torch.equal(written, write(model, second))

    def test_a_batch_of_conversations(self):
        model = chat_model()
        first = prompts()
        answer = write(model, first, min_new_tokens=12, return_dict_in_generate=True)
        new = torch.tensor([[1, 5, 3, *IMAGE, 2], [1, 5, 3, 7, 8, 9, 2], [1, 5, 3, *IMAGE, 2]])
        ids = torch.cat([answer.sequences, new], dim=1)
        mask = torch.cat([first["attention_mask"], torch.ones(3, ids.shape[1] - LENGTH, dtype=torch.long)], dim=1)
        # In the order of the texts: the first has two images and a new one, the last one and a new one.
        pixels = torch.stack([*first["pixel_values"][:2], PIXELS[0], first["pixel_values"][2], PIXELS[1]])
        second = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
        calls = count_images(model)
        written = write(model, second, cache=answer[CACHE_NAME])
        assert calls["vision_tower"] == [2]
        assert torch.equal(written, write(model, second))

    def test_a_cache_that_ends_within_an_image_is_rejected(self, model, answer):
        second = {"input_ids": self.whole(answer), "pixel_values": PIXELS}
        answer[CACHE_NAME].crop(4 - answer[CACHE_NAME].get_seq_length())
        with pytest.raises(ValueError, match="must not end within an image, but it holds 4 tokens"):
            write(model, second, cache=answer[CACHE_NAME])

    def test_too_few_images_are_rejected(self, model, answer):
        second = {"input_ids": self.whole(answer), "pixel_values": PIXELS[1:]}
        with pytest.raises(ValueError, match="must have 6 image tokens for the 2 images, but got 9"):
            write(model, second, cache=answer[CACHE_NAME])


def test_learns_to_stop_at_the_end_of_its_turn():
    """Although that is what it pads with."""
    torch.manual_seed(0)
    model, processor = SmolVLM(tiny.smolvlm_config()), tiny.smolvlm_processor()
    batch = processor.apply_chat_template(tiny.conversations(), return_labels=True)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        model.train()(**batch).loss.backward()
        optimizer.step()
    questions = [messages[:-1] for messages in tiny.conversations()]
    inputs = processor.apply_chat_template(
        questions, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    written = model.eval().generate(**inputs, max_new_tokens=30)[:, inputs["input_ids"].shape[1] :]
    assert written.shape[1] < 30
    assert (written[:, -1] == tiny.TURN_END).all()
    answers = ["a small red circle", "the dog runs on grass", "a tree"]
    assert processor.batch_decode(written, skip_special_tokens=True) == answers
