"""Captioners made of pretrained parts, with another vocabulary, and from a folder in a pipeline."""

import json
from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.models.qformer_captioner.large import END, START, TEXT, captioner
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    GPTNeoXConfig,
    OPTConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    TimmWrapperConfig,
    pipeline,
)

from vlmkit import QFormerCaptioner, QFormerCaptionerProcessor

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CLIP = CLIPConfig(
    vision_config=CLIPVisionConfig(**SIZES, image_size=32, patch_size=16),
    text_config=CLIPTextConfig(**SIZES, vocab_size=50),
)
CNN = TimmWrapperConfig(architecture="resnet10t", model_args={"channels": (8, 8, 16, 16), "stem_width": 8})
_OPT_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 16,
    "word_embed_proj_dim": 8,
}
_BART_SIZES = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
FIELDS = {"num_query_tokens": 3, "num_attention_heads": 2}
BERT = BertConfig(**SIZES, vocab_size=99, initializer_range=0.5)
DECODERS = {
    "bert": BertConfig(**SIZES, vocab_size=99, initializer_range=0.5, is_decoder=True),
    "gpt_neox": GPTNeoXConfig(**SIZES, vocab_size=99, initializer_range=0.5),
    "opt": OPTConfig(**_OPT_SIZES, vocab_size=99, init_std=0.5),
    "bart": BartConfig(**_BART_SIZES, vocab_size=99, init_std=0.5),
}


def vision_model(name: str) -> PreTrainedModel:
    return AutoModel.from_config({"vit": tiny.vision_config(), "clip": CLIP, "cnn": CNN}[name])


@pytest.fixture
def vision(tmp_path):
    AutoModel.from_config(tiny.vision_config()).save_pretrained(tmp_path / "vision")
    return tmp_path / "vision"


@pytest.fixture
def text(tmp_path):
    AutoModelForCausalLM.from_config(TEXT["gpt2"]).save_pretrained(tmp_path / "text")
    return tmp_path / "text"


def build(vision, text, **options) -> QFormerCaptioner:
    """With the tiny processor, which adds no token."""
    options = {"processor": tiny.qformer_captioner_processor(), **FIELDS, **options}
    return QFormerCaptioner.from_vision_text_pretrained(vision, text, **options)


class TestFromVisionTextPretrained:
    @pytest.mark.parametrize("vision_name", ["vit", "clip", "cnn"])
    @pytest.mark.parametrize("text_name", ["gpt_neo", "gpt2", "llama"])
    def test_takes_all_weights_over(self, vision_name, text_name, tmp_path):
        vision, text = vision_model(vision_name), AutoModelForCausalLM.from_config(TEXT[text_name])
        for part, name in ((vision, "vision"), (text, "text")):
            for parameter in part.parameters():
                torch.nn.init.normal_(parameter)
            part.save_pretrained(tmp_path / name)
        model = build(tmp_path / "vision", tmp_path / "text")

        image_side = CLIPModel.get_submodule(vision, "vision_model") if vision_name == "clip" else vision
        expected = {name: weight for name, weight in image_side.state_dict().items() if "pooler" not in name}
        ours = model.get_encoder("image").backbone.state_dict()
        prefix = next(iter(ours)).partition(next(iter(expected)))[0]  # "", or "vision_model."
        torch.testing.assert_close(ours, {f"{prefix}{name}": weight for name, weight in expected.items()})
        torch.testing.assert_close(model.get_decoder().state_dict(), text.base_model.state_dict())
        torch.testing.assert_close(model.lm_head.state_dict(), text.get_output_embeddings().state_dict())
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.get_encoder("image").parameters())
        trained = (*model.get_decoder().parameters(), *model.lm_head.parameters())
        assert all(parameter.requires_grad for parameter in trained)

    @pytest.mark.parametrize("tied", [True, False])
    def test_a_head_stays_tied_or_apart(self, vision, tied, tmp_path):
        config = tiny.llama_config(tie_word_embeddings=tied)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "text")
        model = build(vision, tmp_path / "text")
        model.save_pretrained(tmp_path / "saved")
        for each in (model, AutoModel.from_pretrained(tmp_path / "saved")):
            assert (each.get_output_embeddings().weight is each.get_input_embeddings().weight) is tied
            torch.testing.assert_close(each.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_names_no_folder_of_this_machine(self, vision, text, tmp_path):
        model = build(vision, text)
        model.save_pretrained(tmp_path / "saved")
        for file in (tmp_path / "saved").glob("*.[jm]*"):  # json and md
            assert str(tmp_path) not in file.read_text(errors="ignore")

    def test_generates_from_the_start_to_the_end_token(self, vision, text):
        generation = build(vision, text).generation_config
        assert (generation.bos_token_id, generation.eos_token_id) == (START, END)

    def test_needs_a_processor(self, vision, text):
        with pytest.raises(TypeError, match="processor"):
            QFormerCaptioner.from_vision_text_pretrained(vision, text, **FIELDS)

    def test_in_half_precision(self, vision, text):
        model = build(vision, text, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        written = model.generate(pixel_values=torch.rand(1, 3, 32, 32).bfloat16(), max_new_tokens=3, min_new_tokens=3)
        assert written.shape == (1, 4)

    def test_fields_are_the_configurations(self, vision, text):
        model = build(vision, text, vision_layers=[1, 2], dropout=0)
        assert model.config.vision_layers == [1, 2]
        assert model.model.connector.query_tokens.shape == (1, 3, 16)
        with pytest.raises(TypeError, match=r"no field 'num_query_token'. Did you mean 'num_query_tokens'"):
            build(vision, text, num_query_token=3)

    def test_a_missing_folder_is_named(self, vision, tmp_path):
        with pytest.raises(OSError, match="nowhere"):
            build(vision, tmp_path / "nowhere")


class TestOtherTextModels:
    @pytest.mark.parametrize("source", ["vit", "clip", "t5"])
    def test_that_are_no_language_models_are_refused(self, vision, source, tmp_path):
        t5 = T5ForConditionalGeneration(T5Config(d_model=16, num_layers=1, num_heads=2, d_ff=16, d_kv=8))
        (t5 if source == "t5" else vision_model(source)).save_pretrained(tmp_path / "text")
        with pytest.raises(ValueError, match=r"(?i)AutoModelForCausalLM|causal language model"):
            build(vision, tmp_path / "text")

    def test_that_look_ahead_are_refused(self, vision, tmp_path):
        """An encoder would read the words that it shall predict."""
        BertForMaskedLM(BERT).save_pretrained(tmp_path / "text")
        with pytest.raises(ValueError, match=r"bert.*is_decoder"):
            build(vision, tmp_path / "text")
        with pytest.raises(ValueError, match=r"bert.*is_decoder"):
            captioner(text_config=BERT)

    @pytest.mark.parametrize("name", DECODERS)
    def test_that_do_not_look_ahead_are_welcome(self, vision, name, tmp_path):
        AutoModelForCausalLM.from_config(DECODERS[name]).save_pretrained(tmp_path / "text")
        model = build(vision, tmp_path / "text")
        ids, image = torch.tensor([[30, 5, 6, 7]]), torch.rand(1, 3, 32, 32)
        changed = torch.tensor([[30, 5, 6, 8]])
        before, after = (model(input_ids=each, pixel_values=image).logits for each in (ids, changed))
        torch.testing.assert_close(before[:, :3], after[:, :3])


class TestSpecialTokens:
    """The processor's tokenizer has a start, an end and a padding token that the language model does not know."""

    ADDED = {"bos_token": "<START>", "eos_token": "<END>", "pad_token": "<PAD>"}  # noqa: RUF012
    NUM_KNOWN = len(tiny.tokenizer())

    @pytest.fixture(params=["gpt2", "llama"])
    def folders(self, request, tmp_path) -> tuple[Path, Path]:
        """A vision and a text model with their preprocessing; only GPT-2's head is tied."""
        AutoModel.from_config(tiny.vision_config()).save_pretrained(tmp_path / "vision")
        tiny.image_processor().save_pretrained(tmp_path / "vision")
        config = tiny.text_config if request.param == "gpt2" else tiny.llama_config
        text = config(vocab_size=self.NUM_KNOWN, initializer_range=0.2)
        AutoModelForCausalLM.from_config(text).save_pretrained(tmp_path / "text")
        tiny.tokenizer().save_pretrained(tmp_path / "text")
        return tmp_path / "vision", tmp_path / "text"

    @pytest.fixture
    def processor(self, folders) -> QFormerCaptionerProcessor:
        return QFormerCaptionerProcessor.from_vision_text_pretrained(*folders, **self.ADDED)

    @pytest.fixture
    def model(self, folders, processor) -> QFormerCaptioner:
        return QFormerCaptioner.from_vision_text_pretrained(*folders, processor=processor, **FIELDS)

    def test_ids_are_the_processors(self, model, processor):
        expected = {
            name: getattr(processor.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        }
        assert sorted(expected.values()) == list(range(self.NUM_KNOWN, self.NUM_KNOWN + 3))
        for holder in (model.config.text_config, model.get_decoder().config, model.generation_config):
            assert {name: getattr(holder, name) for name in expected} == expected

    def test_ids_that_the_language_model_knows_are_the_processors_as_well(self, folders):
        known = {"bos_token": "star", "eos_token": "maple", "pad_token": "bus"}
        processor = QFormerCaptionerProcessor.from_vision_text_pretrained(*folders, **known)
        model = QFormerCaptioner.from_vision_text_pretrained(*folders, processor=processor, **FIELDS)
        ids = tiny.tokenizer().convert_tokens_to_ids(list(known.values()))
        for holder in (model.config.text_config, model.generation_config):
            assert [holder.bos_token_id, holder.eos_token_id, holder.pad_token_id] == ids
        assert model.config.text_config.vocab_size == self.NUM_KNOWN

    def test_embeddings_and_head_are_extended(self, model, folders):
        original = AutoModelForCausalLM.from_pretrained(folders[1])
        size = self.NUM_KNOWN + 3
        assert model.config.text_config.vocab_size == model.get_decoder().config.vocab_size == size
        for ours, theirs in (
            (model.get_input_embeddings(), original.get_input_embeddings()),
            (model.get_output_embeddings(), original.get_output_embeddings()),
        ):
            assert ours.weight.shape == (size, 16)
            torch.testing.assert_close(ours.weight[: self.NUM_KNOWN], theirs.weight, rtol=0, atol=0)
            assert ours.weight[self.NUM_KNOWN :].isfinite().all()
        assert (model.lm_head.weight is model.get_input_embeddings().weight) is model.config.tie_word_embeddings

    def test_larger_embeddings_are_kept(self, folders, processor, tmp_path):
        AutoModelForCausalLM.from_config(TEXT["gpt2"]).save_pretrained(tmp_path / "larger")
        model = build(folders[0], tmp_path / "larger", processor=processor)
        assert len(processor.tokenizer) < model.config.text_config.vocab_size == 99
        assert model.generation_config.bos_token_id == processor.tokenizer.bos_token_id

    def test_it_trains_and_generates_with_them(self, model, processor, tmp_path):
        model.save_pretrained(tmp_path / "saved")
        processor.save_pretrained(tmp_path / "saved")
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
        batch = AutoProcessor.from_pretrained(tmp_path / "saved")(
            PHOTOS, tiny.SENTENCES, return_labels=True, return_tensors="pt"
        )
        start, end = processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id
        assert (batch["input_ids"][:, 0] == start).all()
        loaded.train()(**batch).loss.backward()
        assert loaded.get_input_embeddings().weight.grad[start].abs().sum() > 0
        assert loaded.lm_head.weight.grad[end].abs().sum() > 0

        options = {"pixel_values": batch["pixel_values"], "max_new_tokens": 5, "sequence_bias": {(end,): 1000.0}}
        assert loaded.eval().generate(**options).tolist() == [[start, end]] * 3

    def test_in_half_precision(self, folders, processor):
        options = {"processor": processor, "dtype": torch.bfloat16, **FIELDS}
        model = QFormerCaptioner.from_vision_text_pretrained(*folders, **options)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert model.get_input_embeddings().num_embeddings == self.NUM_KNOWN + 3


class TestVocabulary:
    @pytest.mark.parametrize("text_name", ["gpt_neo", "llama"])
    def test_can_grow_by_a_start_and_an_end(self, text_name, tmp_path):
        model = captioner(text_name)
        before = model(**inputs()).logits
        model.resize_token_embeddings(101, mean_resizing=False)
        assert model.config.text_config.vocab_size == 101
        after = model(**inputs()).logits
        assert after.shape[2] == 101
        torch.testing.assert_close(after[..., :99], before)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

        model.generation_config.update(bos_token_id=99, eos_token_id=100)
        model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(**inputs()).logits, after)
        written = loaded.generate(pixel_values=inputs()["pixel_values"], max_new_tokens=3, min_new_tokens=3)
        assert (written[:, 0] == 99).all()
        ids = torch.tensor([[99, 5, 100]] * 3)
        loss = loaded.train()(input_ids=ids, labels=ids, pixel_values=inputs()["pixel_values"]).loss
        loss.backward()
        assert loaded.get_input_embeddings().weight.grad[100].abs().sum() > 0


def inputs() -> dict[str, torch.Tensor]:
    batch = tiny.qformer_captioner_inputs()
    del batch["labels"]
    return batch


PHOTOS = [tiny.photo(seed=row) for row in range(3)]
PROMPTS = ["", "a small red", "this is"]
LENGTH = {"max_new_tokens": 8, "min_new_tokens": 8}


class TestPipeline:
    @pytest.fixture
    def folder(self, tmp_path):
        model = captioner()
        # The model knows more tokens than the tokenizer, which writes nothing for them.
        model.generation_config.suppress_tokens = [START, *range(START + 1, 99)]
        model.save_pretrained(tmp_path)
        tiny.qformer_captioner_processor().save_pretrained(tmp_path)
        return tmp_path

    @pytest.fixture
    def describe(self, folder):
        return pipeline("image-text-to-text", model=str(folder))

    @pytest.fixture
    def expected(self, folder) -> list[str]:
        """Of each photograph and prompt by itself."""
        model, processor = AutoModelForImageTextToText.from_pretrained(folder), tiny.qformer_captioner_processor()
        assert type(model) is QFormerCaptioner
        batches = [processor(photo, prompt, return_tensors="pt") for photo, prompt in zip(PHOTOS, PROMPTS, strict=True)]
        written = [model.generate(**batch, **LENGTH) for batch in batches]
        texts = [processor.decode(tokens[0], skip_special_tokens=True).strip() for tokens in written]
        assert len(set(texts)) == 3
        assert all(texts)
        return texts

    def texts(self, results: list) -> list[str]:
        flat = [row[0] if isinstance(row, list) else row for row in results]
        return [row["generated_text"].strip() for row in flat]

    def test_describes_a_file(self, describe, expected, tmp_path):
        PHOTOS[0].save(tmp_path / "photo.png")
        assert self.texts(describe(str(tmp_path / "photo.png"), text="", **LENGTH)) == expected[:1]

    def test_describes_an_image(self, describe, expected):
        assert self.texts(describe(PHOTOS[0], text="", **LENGTH)) == expected[:1]
        assert self.texts(describe(images=PHOTOS[0], text="", **LENGTH)) == expected[:1]
        assert self.texts(describe({"images": PHOTOS[0], "text": ""}, **LENGTH)) == expected[:1]

    def test_continues_a_text(self, describe, expected):
        [result] = describe(PHOTOS[1], text=PROMPTS[1], **LENGTH)
        assert result["input_text"] == "a small red"
        assert result["generated_text"] == expected[1]
        assert expected[1].startswith("a small red ")
        [result] = describe(PHOTOS[1], text=PROMPTS[1], return_full_text=False, **LENGTH)
        assert f"a small red{result['generated_text']}" == expected[1]

    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_describes_many(self, describe, expected, batch_size):
        results = describe(PHOTOS, text=PROMPTS, batch_size=batch_size, **LENGTH)
        assert self.texts(results) == expected

    def test_writes_several_texts(self, describe):
        options = {**LENGTH, "num_beams": 3, "num_return_sequences": 2}
        results = describe(PHOTOS[0], text="", generate_kwargs=options)
        assert len(results) == 2
        assert len({row["generated_text"] for row in results}) == 2

    def test_refuses_another_number_of_texts(self, describe):
        with pytest.raises(ValueError, match=r"3 images and 2 texts.* one image for each text"):
            describe(PHOTOS, text=["", ""])

    def test_is_what_the_card_shows(self, folder):
        assert 'pipeline("image-text-to-text"' in (folder / "README.md").read_text()
        assert json.loads((folder / "config.json").read_text())["architectures"] == ["QFormerCaptioner"]
