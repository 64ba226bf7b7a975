"""Captioners made of pretrained parts, with another vocabulary, and from a folder in a pipeline."""

import json

import pytest
import torch
from tests import tiny
from tests.models.qformer_captioner.large import END, START, TEXT, captioner
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
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

from vlmkit import QFormerCaptioner

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


class TestFromVisionTextPretrained:
    @pytest.mark.parametrize("vision_name", ["vit", "clip", "cnn"])
    @pytest.mark.parametrize("text_name", ["gpt_neo", "gpt2", "llama"])
    def test_takes_all_weights_over(self, vision_name, text_name, tmp_path):
        vision, text = vision_model(vision_name), AutoModelForCausalLM.from_config(TEXT[text_name])
        for part, name in ((vision, "vision"), (text, "text")):
            for parameter in part.parameters():
                torch.nn.init.normal_(parameter)
            part.save_pretrained(tmp_path / name)
        model = QFormerCaptioner.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text", **FIELDS)

        image_side = CLIPModel.get_submodule(vision, "vision_model") if vision_name == "clip" else vision
        expected = {name: weight for name, weight in image_side.state_dict().items() if "pooler" not in name}
        ours = model.vision_tower.backbone.state_dict()
        prefix = next(iter(ours)).partition(next(iter(expected)))[0]  # "", or "vision_model."
        torch.testing.assert_close(ours, {f"{prefix}{name}": weight for name, weight in expected.items()})
        torch.testing.assert_close(model.language_model.state_dict(), text.state_dict())
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.vision_tower.parameters())
        assert all(parameter.requires_grad for parameter in model.language_model.parameters())

    @pytest.mark.parametrize("tied", [True, False])
    def test_a_head_stays_tied_or_apart(self, vision, tied, tmp_path):
        config = tiny.llama_config(tie_word_embeddings=tied)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "text")
        model = QFormerCaptioner.from_vision_text_pretrained(vision, tmp_path / "text", **FIELDS)
        model.save_pretrained(tmp_path / "saved")
        for each in (model, AutoModel.from_pretrained(tmp_path / "saved")):
            assert (each.get_output_embeddings().weight is each.get_input_embeddings().weight) is tied
            torch.testing.assert_close(each.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_names_no_folder_of_this_machine(self, vision, text, tmp_path):
        model = QFormerCaptioner.from_vision_text_pretrained(vision, text, **FIELDS)
        model.save_pretrained(tmp_path / "saved")
        for file in (tmp_path / "saved").glob("*.[jm]*"):  # json and md
            assert str(tmp_path) not in file.read_text(errors="ignore")

    def test_knows_start_and_end_of_the_language_model(self, vision, text):
        generation = QFormerCaptioner.from_vision_text_pretrained(vision, text, **FIELDS).generation_config
        assert (generation.bos_token_id, generation.eos_token_id) == (START, END)

    def test_in_half_precision(self, vision, text):
        model = QFormerCaptioner.from_vision_text_pretrained(vision, text, dtype=torch.bfloat16, **FIELDS)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        written = model.generate(pixel_values=torch.rand(1, 3, 32, 32).bfloat16(), max_new_tokens=3, min_new_tokens=3)
        assert written.shape == (1, 4)

    def test_fields_are_the_configurations(self, vision, text):
        model = QFormerCaptioner.from_vision_text_pretrained(vision, text, **FIELDS, vision_layers=[1, 2], dropout=0)
        assert model.config.vision_layers == [1, 2]
        assert model.qformer.query_tokens.shape == (1, 3, 16)
        with pytest.raises(TypeError, match="no field 'num_query_token', did you mean 'num_query_tokens'"):
            QFormerCaptioner.from_vision_text_pretrained(vision, text, num_query_token=3)

    def test_a_missing_folder_is_named(self, vision, tmp_path):
        with pytest.raises(OSError, match="nowhere"):
            QFormerCaptioner.from_vision_text_pretrained(vision, tmp_path / "nowhere")


class TestOtherTextModels:
    @pytest.mark.parametrize("source", ["vit", "clip", "t5"])
    def test_that_are_no_language_models_are_refused(self, vision, source, tmp_path):
        t5 = T5ForConditionalGeneration(T5Config(d_model=16, num_layers=1, num_heads=2, d_ff=16, d_kv=8))
        (t5 if source == "t5" else vision_model(source)).save_pretrained(tmp_path / "text")
        with pytest.raises(ValueError, match=r"(?i)AutoModelForCausalLM|causal language model"):
            QFormerCaptioner.from_vision_text_pretrained(vision, tmp_path / "text", **FIELDS)

    def test_that_look_ahead_are_refused(self, vision, tmp_path):
        """An encoder would read the words that it shall predict."""
        BertForMaskedLM(BERT).save_pretrained(tmp_path / "text")
        with pytest.raises(ValueError, match=r"bert.*is_decoder"):
            QFormerCaptioner.from_vision_text_pretrained(vision, tmp_path / "text", **FIELDS)
        with pytest.raises(ValueError, match=r"bert.*is_decoder"):
            captioner(text_config=BERT)

    @pytest.mark.parametrize("name", DECODERS)
    def test_that_do_not_look_ahead_are_welcome(self, vision, name, tmp_path):
        AutoModelForCausalLM.from_config(DECODERS[name]).save_pretrained(tmp_path / "text")
        model = QFormerCaptioner.from_vision_text_pretrained(vision, tmp_path / "text", **FIELDS)
        ids, image = torch.tensor([[30, 5, 6, 7]]), torch.rand(1, 3, 32, 32)
        changed = torch.tensor([[30, 5, 6, 8]])
        before, after = (model(input_ids=each, pixel_values=image).logits for each in (ids, changed))
        torch.testing.assert_close(before[:, :3], after[:, :3])


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
        with pytest.raises(ValueError, match="3 images and 2 texts; give one image for each text"):
            describe(PHOTOS, text=["", ""])

    def test_is_what_the_card_shows(self, folder):
        assert 'pipeline("image-text-to-text"' in (folder / "README.md").read_text()
        assert json.loads((folder / "config.json").read_text())["architectures"] == ["QFormerCaptioner"]
