"""Chat models made of a first stage and a language model, with more tokens, and from a folder in a pipeline."""

import copy
import json
from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.models.qformer_aligner.large import aligner
from tests.models.smolvlm.large import TEXT, chat_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    BertConfig,
    BertForMaskedLM,
    GenerationConfig,
    PreTrainedModel,
    pipeline,
)

from vlmkit import QFormerAligner, SmolVLM, VlmkitSmolVLMProcessor
from vlmkit.modules.precomputed_vision import PrecomputedVisionConfig

NO_ROOM = tiny.IMAGE_TOKEN_ID  # rows for the tokenizer's own tokens only
PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def first_stage(folder: Path, text: str = "distilbert", **config) -> QFormerAligner:
    model = aligner(text, **config)
    model.save_pretrained(folder)
    tiny.qformer_aligner_processor().save_pretrained(folder)
    return model


def language_model(folder: Path, name: str = "llama", **config) -> PreTrainedModel:
    text_config = copy.deepcopy(TEXT[name])
    for field, value in config.items():
        setattr(text_config, field, value)
    model = AutoModelForCausalLM.from_config(text_config).eval()
    model.save_pretrained(folder)
    tiny.chat_tokenizer().save_pretrained(folder)
    return model


@pytest.fixture
def stage(tmp_path) -> Path:
    first_stage(tmp_path / "stage")
    return tmp_path / "stage"


@pytest.fixture
def text(tmp_path) -> Path:
    language_model(tmp_path / "text")
    return tmp_path / "text"


def join(stage: Path, text: Path, **options) -> SmolVLM:
    processor = VlmkitSmolVLMProcessor.from_aligner_text_pretrained(stage, text)
    return SmolVLM.from_aligner_text_pretrained(stage, text, processor=processor, **options)


def project(model: SmolVLM, queries: torch.Tensor) -> torch.Tensor:
    """The two layers behind the Q-Former."""
    connector = model.model.connector
    return connector.fc2(connector.act(connector.fc1(queries)))


class TestFromAlignerTextPretrained:
    @pytest.mark.parametrize("qformer", ["distilbert", "bert", "roberta"])
    def test_the_queries_are_those_of_the_first_stage(self, qformer, text, tmp_path):
        first = first_stage(tmp_path / "stage", qformer)
        model = join(tmp_path / "stage", text)
        expected = first.get_image_features(PIXELS).last_hidden_state
        features = model.get_image_features(PIXELS)
        assert expected.std() > 0.1
        torch.testing.assert_close(features.last_hidden_state, first.vision_tower(PIXELS).last_hidden_state)
        queries = model.model.connector.qformer(
            vision_features=model.model.connector.vision_projection(features.last_hidden_state)
        )
        torch.testing.assert_close(queries.queries, expected)
        torch.testing.assert_close(features.pooler_output, project(model, expected))

    @pytest.mark.parametrize(
        "fields", [{"num_cross_attention_heads": 4}, {"cross_attention_frequency": 1}, {"num_query_tokens": 5}], ids=str
    )
    def test_what_the_first_stage_was_built_with_is_kept(self, fields, text, tmp_path):
        first = first_stage(tmp_path / "stage", **fields)
        model = join(tmp_path / "stage", text)
        for name, value in fields.items():
            assert getattr(model.config, name) == value
        expected = project(model, first.get_image_features(PIXELS).last_hidden_state)
        torch.testing.assert_close(model.get_image_features(PIXELS).pooler_output, expected)

    @pytest.mark.parametrize("losses", [{"matching_loss_weight": 1.0, "captioning_loss_weight": 1.0}])
    def test_heads_of_the_first_stage_stay_behind(self, losses, text, tmp_path):
        first_stage(tmp_path / "stage", **losses, learn_temperature=True)
        names = {name.rpartition(".")[0].split(".")[:2][-1] for name in join(tmp_path / "stage", text).state_dict()}
        assert names == {"vision_tower", "connector", "language_model", "lm_head"}

    @pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neo"])
    @pytest.mark.parametrize("vocab_size", [NO_ROOM, NO_ROOM - 4, 99])
    def test_texts_give_the_logits_of_the_language_model(self, name, vocab_size, stage, tmp_path):
        """Whether or not its table has room for the image token, as Qwen's has."""
        original = language_model(tmp_path / "text", name, vocab_size=vocab_size)
        model = join(stage, tmp_path / "text")
        ids = torch.randint(3, NO_ROOM - 4, (2, 9))
        expected = original(input_ids=ids).logits
        logits = model(input_ids=ids).logits
        assert expected.std() > 0.3
        torch.testing.assert_close(logits[..., :vocab_size], expected)
        rows = max(vocab_size, tiny.IMAGE_TOKEN_ID + 1)
        assert logits.shape[2] == model.get_input_embeddings().num_embeddings == rows
        assert model.config.text_config.vocab_size == model.model.language_model.config.vocab_size == rows

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("vocab_size", [NO_ROOM, 99])
    def test_a_head_stays_tied_or_apart(self, tied, vocab_size, stage, tmp_path):
        language_model(tmp_path / "text", tie_word_embeddings=tied, vocab_size=vocab_size)
        model = join(stage, tmp_path / "text")
        model.save_pretrained(tmp_path / "saved")
        loaded, report = AutoModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
        assert not any(report.values())
        for each in (model, loaded):
            assert (each.get_output_embeddings().weight is each.get_input_embeddings().weight) is tied
            torch.testing.assert_close(each.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_what_trains_is_the_connector_and_the_language_model(self, stage, text):
        model = join(stage, text)
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.model.vision_tower.parameters())
        for part in (model.model.connector, model.model.language_model):
            assert all(parameter.requires_grad for parameter in part.parameters())

    def test_generation_is_the_language_models_without_the_image_token(self, stage, text):
        GenerationConfig(
            eos_token_id=[2, 7], pad_token_id=2, repetition_penalty=1.2, suppress_tokens=[9]
        ).save_pretrained(text)
        generation = join(stage, text).generation_config
        assert (generation.eos_token_id, generation.pad_token_id, generation.repetition_penalty) == ([2, 7], 2, 1.2)
        assert generation.suppress_tokens == [9, tiny.IMAGE_TOKEN_ID]

    def test_names_no_folder_of_this_machine(self, stage, text, tmp_path):
        join(stage, text).save_pretrained(tmp_path / "saved")
        for file in (tmp_path / "saved").glob("*.[jm]*"):  # json and md
            assert str(tmp_path) not in file.read_text(errors="ignore")

    def test_in_half_precision(self, stage, text):
        model = join(stage, text, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        inputs = {
            "input_ids": torch.tensor([[1, *[tiny.IMAGE_TOKEN_ID] * 3, 7]]),
            "pixel_values": PIXELS[:1].bfloat16(),
        }
        assert model.generate(**inputs, max_new_tokens=3, min_new_tokens=3).shape == (1, 8)

    def test_another_vision_tower_of_the_same_width_may_be_taken(self, stage, text, tmp_path):
        other = AutoModel.from_config(tiny.vision_config(num_hidden_layers=1, initializer_range=0.5)).eval()
        other.save_pretrained(tmp_path / "vision")
        model = join(stage, text, vision=tmp_path / "vision")
        expected = other(PIXELS).last_hidden_state
        torch.testing.assert_close(model.get_image_features(PIXELS).last_hidden_state, expected)
        assert not any(parameter.requires_grad for parameter in model.model.vision_tower.parameters())

    def test_a_first_stage_on_precomputed_features(self, text, tmp_path):
        first = first_stage(tmp_path / "stage", vision_config=PrecomputedVisionConfig(hidden_size=20))
        model, tokens = join(tmp_path / "stage", text), torch.randn(2, 7, 20)
        expected = project(model, first.get_image_features(vision_features=tokens).last_hidden_state)
        torch.testing.assert_close(model.get_image_features(vision_features=tokens).pooler_output, expected)


class TestWrongParts:
    def test_a_first_stage_of_another_width_is_rejected(self, stage, text, tmp_path):
        AutoModel.from_config(tiny.vision_config(hidden_size=24)).save_pretrained(tmp_path / "vision")
        message = r"must have the width 16 that the Q-Former in .*stage was trained on, but .*vision has 24"
        with pytest.raises(ValueError, match=message):
            join(stage, text, vision=tmp_path / "vision")

    def test_another_model_in_place_of_the_first_stage_is_rejected(self, stage, text, tmp_path):
        with pytest.raises(ValueError, match="must be 'vlmkit_qformer_aligner', but got 'llama'"):
            join(text, text)
        join(stage, text).save_pretrained(tmp_path / "second")
        with pytest.raises(ValueError, match="must be 'vlmkit_qformer_aligner', but got 'vlmkit_smolvlm'"):
            join(tmp_path / "second", text)

    def test_another_model_in_place_of_the_language_model_is_rejected(self, stage, tmp_path):
        with pytest.raises(ValueError, match=r"(?i)AutoModelForCausalLM|causal language model"):
            join(stage, stage)
        AutoModel.from_config(tiny.vision_config()).save_pretrained(tmp_path / "vision")
        tiny.chat_tokenizer().save_pretrained(tmp_path / "vision")
        with pytest.raises(ValueError, match=r"(?i)AutoModelForCausalLM|causal language model"):
            join(stage, tmp_path / "vision")

    def test_a_bidirectional_language_model_is_rejected(self, stage, tmp_path):
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        BertForMaskedLM(BertConfig(**sizes, vocab_size=99)).save_pretrained(tmp_path / "text")
        tiny.chat_tokenizer().save_pretrained(tmp_path / "text")
        with pytest.raises(ValueError, match=r"bert.*is_decoder"):
            join(stage, tmp_path / "text")

    @pytest.mark.parametrize("missing", ["stage", "text", "vision"])
    def test_a_missing_folder_is_named(self, missing, stage, text, tmp_path):
        folders = {"stage": stage, "text": text, missing: tmp_path / "nowhere"}
        with pytest.raises(OSError, match="nowhere"):
            join(**folders)


class TestProcessor:
    def test_is_made_of_both_folders(self, stage, text):
        processor = VlmkitSmolVLMProcessor.from_aligner_text_pretrained(stage, text)
        assert processor.image_token_id == tiny.IMAGE_TOKEN_ID
        expected = tiny.smolvlm_processor().apply_chat_template(tiny.conversations(), return_labels=True)
        batch = processor.apply_chat_template(tiny.conversations(), return_labels=True)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)

    def test_has_one_placeholder_per_query_of_the_first_stage(self, text, tmp_path):
        first_stage(tmp_path / "stage", num_query_tokens=5)
        processor = VlmkitSmolVLMProcessor.from_aligner_text_pretrained(tmp_path / "stage", text)
        batch = processor.apply_chat_template(tiny.conversations(), return_labels=True)
        assert (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist() == [5, 10, 0]
        model = SmolVLM.from_aligner_text_pretrained(tmp_path / "stage", text, processor=processor)
        assert model(**batch).loss.isfinite()

    def test_wrong_folders_are_rejected(self, stage, text, tmp_path):
        with pytest.raises(ValueError, match="must be 'vlmkit_qformer_aligner'"):
            VlmkitSmolVLMProcessor.from_aligner_text_pretrained(text, text)
        with pytest.raises(OSError, match="nowhere"):
            VlmkitSmolVLMProcessor.from_aligner_text_pretrained(stage, tmp_path / "nowhere")


class TestVocabulary:
    @pytest.mark.parametrize("name", ["llama", "gpt2"])
    def test_can_grow(self, name, tmp_path):
        model, batch = chat_model(name), tiny.smolvlm_inputs()
        before = model(**batch).logits
        model.resize_token_embeddings(101, mean_resizing=False)
        assert model.config.text_config.vocab_size == 101
        after = model(**batch)
        torch.testing.assert_close(after.logits[..., :99], before)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        model.save_pretrained(tmp_path)
        torch.testing.assert_close(AutoModel.from_pretrained(tmp_path)(**batch).loss, after.loss)


LENGTHS = {"max_new_tokens": 8, "min_new_tokens": 8}
PHOTOS = [tiny.photo(seed=row) for row in range(3)]


class TestPipeline:
    @pytest.fixture
    def folder(self, tmp_path):
        model = chat_model()
        # The model knows more tokens than the tokenizer, which writes nothing for them.
        model.generation_config.suppress_tokens = [3, *range(tiny.IMAGE_TOKEN_ID, 99)]
        model.save_pretrained(tmp_path)
        tiny.smolvlm_processor().save_pretrained(tmp_path)
        return tmp_path

    @pytest.fixture
    def chat(self, folder):
        return pipeline("image-text-to-text", model=str(folder))

    def expected(self, folder: Path, messages: list[dict]) -> str:
        model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        assert type(model) is SmolVLM
        assert type(processor) is VlmkitSmolVLMProcessor
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = processor.apply_chat_template(messages, **options)
        written = model.generate(**inputs, **LENGTHS)[0, inputs["input_ids"].shape[1] :]
        text = processor.decode(written, skip_special_tokens=True).strip()
        assert len(text.split()) >= 6
        return text

    @pytest.mark.parametrize("num_images", [0, 1, 2, 3])
    def test_answers_about_any_number_of_images(self, chat, folder, num_images):
        messages = [tiny.turn("user", "is this a dog", *PHOTOS[:num_images])]
        expected = self.expected(folder, messages)
        [answer] = chat(text=messages, return_full_text=False, **LENGTHS)
        assert answer["generated_text"].strip() == expected

    def test_answers_the_same_in_batches(self, chat, folder):
        chats = [
            [tiny.turn("user", "is this a dog", PHOTOS[0])],
            [tiny.turn("user", "a photo and this is a small red circle above the tree", *PHOTOS[:2])],
        ]
        answers = chat(text=chats, batch_size=2, return_full_text=False, **LENGTHS)
        found = [answer[0]["generated_text"].strip() for answer in answers]
        assert found == [self.expected(folder, messages) for messages in chats]

    def test_continues_a_conversation(self, chat, folder):
        first = [tiny.turn("user", "is this a dog", PHOTOS[0]), tiny.turn("assistant", "a cat")]
        messages = [*first, tiny.turn("user", "and this", PHOTOS[1])]
        expected = self.expected(folder, messages)
        [answer] = chat(text=messages, **LENGTHS)
        assert [message["role"] for message in answer["generated_text"]] == ["user", "assistant", "user", "assistant"]
        assert answer["generated_text"][-1]["content"].strip() == expected

    def test_answers_many(self, chat, folder):
        conversations = [[tiny.turn("user", "is this a dog", photo)] for photo in PHOTOS]
        expected = [self.expected(folder, messages) for messages in conversations]
        answers = chat(text=conversations, return_full_text=False, **LENGTHS)
        assert [answer[0]["generated_text"].strip() for answer in answers] == expected
        assert len(set(expected)) > 1

    def test_takes_what_the_card_shows(self, chat, folder):
        PHOTOS[0].save(folder / "photo.png")
        image = {"type": "image", "url": str(folder / "photo.png")}
        question = {"type": "text", "text": "is this a dog"}
        messages = [{"role": "user", "content": [image, question]}]
        expected = self.expected(folder, [tiny.turn("user", "is this a dog", PHOTOS[0])])
        assert chat(messages, return_full_text=False, **LENGTHS)[0]["generated_text"].strip() == expected
        card = (folder / "README.md").read_text()
        assert 'pipeline("image-text-to-text"' in card
        assert "return_full_text=False" in card
        assert json.loads((folder / "config.json").read_text())["architectures"] == ["SmolVLM"]
