"""Writing captions with everything that transformers' `generate` offers."""

import pytest
import torch
from tests import tiny
from tests.models.qformer_captioner.large import END, START, captioner
from transformers import GenerationConfig, StaticCache, TextStreamer

from vlmkit import QFormerCaptioner
from vlmkit.compat.cache import CACHE_NAME

PROMPTS = ["", "a small red", "this is"]


@pytest.fixture(params=["gpt_neo", "gpt2", "llama"])
def model(request) -> QFormerCaptioner:
    return captioner(request.param)


def prompts(texts: list[str] | None = None) -> dict[str, torch.Tensor]:
    """An image for each prompt; the prompts are padded on the left."""
    texts = PROMPTS if texts is None else texts
    photos = [tiny.photo(seed=row) for row in range(len(texts))]
    return dict(tiny.qformer_captioner_processor()(photos, texts, return_tensors="pt"))


def write(model: QFormerCaptioner, batch: dict[str, torch.Tensor], **options) -> torch.Tensor:
    torch.manual_seed(0)
    return model.generate(**batch, **{"max_new_tokens": 12, "min_new_tokens": 8, **options})


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
def test_with_and_without_a_cache_the_same_is_written(model, options):
    batch = prompts()
    cached, plain = write(model, batch, **options), write(model, batch, use_cache=False, **options)
    assert torch.equal(cached, plain)
    assert len(cached) == 3 * options.get("num_return_sequences", 1)
    assert len({tuple(row) for row in cached.tolist()}) > 1
    assert len(cached[:, 4:].unique()) >= 3  # a model that repeats one word would hide mistakes


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"repetition_penalty": 1.8}], ids=str)
def test_a_batch_of_different_prompts_equals_single_runs(model, options):
    batch = write(model, prompts(), min_new_tokens=12, **options)
    for row, text in enumerate(PROMPTS):
        alone = tiny.qformer_captioner_processor()(tiny.photo(seed=row), text, return_tensors="pt")
        written = write(model, alone, min_new_tokens=12, **options)
        assert written[0].tolist() == batch[row, -written.shape[1] :].tolist()


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}], ids=str)
def test_images_are_encoded_once(model, options):
    names = ["vision_tower", "connector", "cross_attention.attention.k_proj", "cross_attention.attention.v_proj"]
    calls = {}
    for name in names:

        def note(module, args, name=name):
            calls.setdefault(name, []).append(len(args[0]) if args else None)

        model.model.get_submodule(name).register_forward_pre_hook(note)
    write(model, prompts(), **options)
    assert calls == {name: [3] for name in names}


def test_another_image_gives_another_text(model):
    batch = prompts()
    others = {**batch, "pixel_values": batch["pixel_values"].roll(1, dims=0)}
    first, second = (write(model, inputs, repetition_penalty=1.8) for inputs in (batch, others))
    assert not (first == second).all(dim=1).any()


def test_scores_are_those_of_the_forward_pass(model):
    batch = prompts()
    output = write(model, batch, return_dict_in_generate=True, output_logits=True, output_scores=True)
    assert torch.equal(output.sequences, write(model, batch))
    assert len(output.scores) == len(output.logits) == output.sequences.shape[1] - 4
    mask = torch.cat([batch["attention_mask"], torch.ones(3, len(output.logits), dtype=torch.long)], dim=1)
    whole = model(input_ids=output.sequences, attention_mask=mask, pixel_values=batch["pixel_values"]).logits
    torch.testing.assert_close(torch.stack(output.logits, dim=1), whole[:, 3:-1], rtol=1e-4, atol=1e-4)


class TestLength:
    def test_the_minimum_counts_the_start(self, model):
        batch = prompts(["", ""])
        eager_to_end = {"sequence_bias": {(END,): 1000.0}, "min_new_tokens": None}
        assert write(model, batch, **eager_to_end).tolist() == [[START, END]] * 2
        written = write(model, batch, **eager_to_end, min_length=5)
        assert written.shape == (2, 6)
        assert (written[:, 1:5] != END).all()
        assert (written[:, 5] == END).all()

    def test_a_caption_that_ends_early_is_padded(self):
        model = captioner("llama")
        model.generation_config.pad_token_id = 5
        bias = {(20, END): 1000.0, (20,): 3.0}
        written = write(model, prompts(), min_new_tokens=None, sequence_bias=bias).tolist()
        rows = [row[row.index(END, 4) + 1 :] for row in written if END in row[4:]]
        assert rows
        assert all(set(rest) <= {5} for rest in rows)


class TestStart:
    def test_is_the_start_token_where_no_text_is_given(self, model):
        batch = prompts(["", "", ""])
        written = write(model, {"pixel_values": batch["pixel_values"]})
        assert (written[:, 0] == START).all()
        assert torch.equal(written, write(model, batch))

    def test_may_be_another_token(self, model):
        pixel_values = prompts()["pixel_values"]
        model.generation_config.bos_token_id = None
        assert (write(model, {"pixel_values": pixel_values}, bos_token_id=7)[:, 0] == 7).all()
        options = GenerationConfig(bos_token_id=8, max_new_tokens=3)
        assert (model.generate(pixel_values=pixel_values, generation_config=options)[:, 0] == 8).all()

    def test_is_the_models_where_the_call_says_nothing(self, model):
        options = GenerationConfig(max_new_tokens=3)
        written = model.generate(pixel_values=prompts()["pixel_values"], generation_config=options)
        assert (written[:, 0] == START).all()

    def test_must_be_known(self, model):
        model.generation_config.bos_token_id = None
        with pytest.raises(
            ValueError,
            match=r"`input_ids` must be given .*without a start token\. .*set `model\.generation_config\.bos_token_id`",
        ):
            model.generate(pixel_values=prompts()["pixel_values"])

    @pytest.mark.parametrize("given", ["first argument", "inputs", "inputs_embeds"])
    def test_a_prompt_may_be_given_in_other_ways(self, model, given):
        batch = prompts()
        expected = write(model, batch)
        ids = batch.pop("input_ids")
        torch.manual_seed(0)
        lengths = {"max_new_tokens": 12, "min_new_tokens": 8}
        if given == "first argument":
            assert torch.equal(model.generate(ids, **batch, **lengths), expected)
        elif given == "inputs":
            assert torch.equal(model.generate(inputs=ids, **batch, **lengths), expected)
        else:
            embeds = model.get_input_embeddings()(ids)
            assert torch.equal(model.generate(inputs_embeds=embeds, **batch, **lengths), expected[:, 4:])


class TestImages:
    def test_may_be_given_as_tokens(self, model):
        batch = prompts()
        expected = write(model, batch, num_beams=2)
        tokens = model.get_encoder("image")(batch.pop("pixel_values")).last_hidden_state
        assert torch.equal(write(model, {**batch, "vision_features": tokens}, num_beams=2), expected)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pixel_values": None}, "the images either as `pixel_values` or as `vision_features`"),
            ({"vision_features": torch.rand(3, 4, 16)}, "the images either as `pixel_values` or as `vision_features`"),
            ({"pixel_values": torch.rand(2, 3, 32, 32)}, r"2 images and 3 texts\. Pass one image for each text"),
            ({"max_new_token": 3}, "max_new_token"),
        ],
    )
    def test_bad_calls_are_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            captioner().generate(**{"max_new_tokens": 3, **prompts(), **change})


class TestCaches:
    @pytest.mark.parametrize("text", ["gpt2", "llama"])
    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
    def test_a_static_one_gives_the_same(self, text, options):
        model, batch = captioner(text), prompts()
        expected = write(model, batch, **options)
        assert torch.equal(write(model, batch, cache_implementation="static", **options), expected)

    def test_a_static_one_is_refused_where_transformers_is_wrong_with_it(self):
        model, batch = captioner("gpt_neo"), prompts()
        message = r"GPTNeoModel does not support static caches\. Use a `DynamicCache`"
        options = GenerationConfig(cache_implementation="static", max_new_tokens=3)
        for arguments in ({"cache_implementation": "static"}, {"generation_config": options}):
            with pytest.raises(ValueError, match=message):
                model.generate(**batch, **arguments)
        model.generation_config.cache_implementation = "static"
        for arguments in ({}, {"generation_config": GenerationConfig(max_new_tokens=3)}):
            with pytest.raises(ValueError, match=message):
                model.generate(**batch, **arguments)

    def test_a_static_one_made_before_is_refused_as_well(self):
        model = captioner("gpt_neo")
        cache = StaticCache(model.config, max_cache_len=40)
        with pytest.raises(ValueError, match="GPTNeoModel does not support static caches"):
            model.generate(**prompts(), **{CACHE_NAME: cache}, max_new_tokens=3)


class TestTransformersTools:
    def test_prompt_lookup_decoding_writes_the_same(self, model):
        batch = prompts(["a small red circle and a small red"])
        assert torch.equal(write(model, batch, prompt_lookup_num_tokens=3), write(model, batch))

    def test_a_streamer_prints_while_it_writes(self, model, capsys):
        batch, tokenizer = prompts(["a small"]), tiny.qformer_captioner_processor().tokenizer
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        unknown = list(range(len(tokenizer), 99))  # the model has embeddings of more tokens than the tokenizer
        written = write(model, batch, streamer=streamer, suppress_tokens=unknown)
        expected = tokenizer.decode(written[0, 3:], skip_special_tokens=True)
        assert expected
        assert capsys.readouterr().out.strip() == expected

    @tiny.NEEDS_FULL_GRAPHS
    def test_a_compiled_forward_pass_gives_the_same(self):
        text = tiny.llama_config(initializer_range=0.2, num_hidden_layers=1)
        vision = tiny.vision_config(initializer_range=0.5, num_hidden_layers=1)
        model = captioner(text_config=text, vision_config=vision, num_qformer_layers=1)
        batch = prompts()
        expected = model(**batch, use_cache=False).logits
        compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
        torch.testing.assert_close(compiled(**batch, use_cache=False).logits, expected)
