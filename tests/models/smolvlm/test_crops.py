"""Images of several sizes and split ones, from the processor to training, replies and pipelines."""

import logging

import pytest
import torch
from tests import tiny
from tests.models.smolvlm.test_designs import design_model
from transformers import AutoProcessor, BatchFeature, Trainer, TrainingArguments, pipeline

from vlmkit import SmolVLM, VlmkitSmolVLMProcessor
from vlmkit.data import ChatCollator
from vlmkit.inference import reply_to_chats

SPLIT, ASPECT = {"do_image_splitting": True}, {"size": {"longest_edge": 64}}
WIDE, HIGH = tiny.photo(96, 48), tiny.photo(32, 80, seed=1)
CHAT = [tiny.turn("user", "is this a dog", WIDE), tiny.turn("assistant", "a cat")]
TO_ANSWER = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}


def design(connector: str = "mlp", fusion: str = "autoregressive", num_query_tokens: int = 3, **images):
    fields = {"connector": connector, "fusion": fusion, "num_query_tokens": num_query_tokens}
    return tiny.crops_processor(tiny.smolvlm_config(**fields, cross_layer_interval=1), **images)


def num_placeholders(batch: BatchFeature) -> list[int]:
    return (batch["input_ids"] == tiny.IMAGE_TOKEN_ID).sum(dim=1).tolist()


class TestProcessor:
    def test_an_image_has_one_placeholder_per_token(self):
        processor = design(**ASPECT)
        batch = processor([WIDE, tiny.photo(32, 48), WIDE], ["<image> a <image>", "<image>"], return_tensors="pt")
        assert num_placeholders(batch) == [8 + 6, 8]  # patches of 16 pixels in 32 x 64 and 48 x 32
        assert batch.keys() == {"pixel_values", "pixel_attention_mask", "num_crops", "input_ids", "attention_mask"}
        assert batch["pixel_attention_mask"].sum(dim=(1, 2)).tolist() == [32 * 64, 48 * 32, 32 * 64]
        shuffled = design("pixel_shuffle", **ASPECT)(WIDE, "<image>", return_tensors="pt")
        assert num_placeholders(shuffled) == [2]

    def test_a_split_image_has_the_placeholders_of_five_crops(self):
        processor = design("perceiver", num_query_tokens=64, **SPLIT)
        batch = processor(WIDE, "<image> a", return_tensors="pt")
        assert num_placeholders(batch) == [320]
        assert batch["pixel_values"].shape == (5, 3, 32, 32)

    def test_with_cross_attention_a_split_image_has_five_placeholders(self):
        for connector in ("qformer", "perceiver", "mlp", "pixel_shuffle"):
            batch = design(connector, "cross_attention", **SPLIT)(WIDE, "<image> a", return_tensors="pt")
            assert num_placeholders(batch) == [5]

    def test_a_call_can_switch_splitting_off(self):
        processor = design("perceiver", **SPLIT)
        whole = processor(WIDE, "<image>", do_image_splitting=False, return_tensors="pt")
        assert num_placeholders(whole) == [3]
        kwargs = {"do_image_splitting": False}
        batch = processor.apply_chat_template(CHAT, return_labels=True, processor_kwargs=kwargs)
        assert num_placeholders(batch) == [3]

    @pytest.mark.parametrize(("saved", "warned"), [(False, True), (True, False)])
    def test_splitting_for_a_model_that_was_not_trained_for_it_is_warned(self, saved, warned, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
        processor = design("perceiver", do_image_splitting=saved)
        for _ in range(2):
            processor(WIDE, "<image>", do_image_splitting=True, return_tensors="pt")
        assert caplog.text.count("the model was not trained with split images") == 2 * warned

    @pytest.mark.parametrize("connector", ["perceiver", "mlp", "pixel_shuffle"])
    @pytest.mark.parametrize("fusion", ["autoregressive", "cross_attention"])
    @pytest.mark.parametrize("images", [{}, SPLIT, ASPECT, {**SPLIT, **ASPECT}], ids=str)
    def test_token_counts_for_servers_equal_those_of_a_call(self, connector, fusion, images):
        processor = design(connector, fusion, **images)
        photos = [WIDE, tiny.photo(33, 90), tiny.photo(200, 20)]
        told = processor._get_num_multimodal_tokens([(photo.height, photo.width) for photo in photos])
        for photo, num_tokens, num_crops in zip(photos, told.num_image_tokens, told.num_image_patches, strict=True):
            batch = processor(photo, "<image>", return_tensors="pt")
            assert num_placeholders(batch) == [num_tokens]
            assert len(batch["pixel_values"]) == num_crops

    def test_token_counts_for_servers_with_options(self):
        told = design(**ASPECT)._get_num_multimodal_tokens([(48, 96)], do_image_splitting=True)
        assert (told.num_image_tokens, told.num_image_patches) == ([4 * 6 + 8], [5])

    def test_without_images_the_number_of_placeholders_is_unknown(self):
        processor = design()
        with pytest.raises(ValueError, match="number of image tokens depends on the size of the image"):
            processor(text="<image> a", return_tensors="pt")
        assert num_placeholders(processor(text=["a dog", "a"], return_tensors="pt")) == [0, 0]

    def test_splitting_with_another_image_processor_is_rejected(self):
        processor, options = tiny.smolvlm_processor(), {"do_image_splitting": False}
        message = r"`do_image_splitting` is not supported by CLIPImageProcessor"
        with pytest.raises(ValueError, match=message):
            processor.apply_chat_template([CHAT[:1]], processor_kwargs=dict(SPLIT), **TO_ANSWER)
        assert num_placeholders(processor.apply_chat_template([CHAT[:1]], processor_kwargs=options, **TO_ANSWER)) == [3]

    def test_of_another_image_processor_are_unknown(self):
        with pytest.raises(ValueError, match="`num_image_tokens` must be given for a CLIPImageProcessor"):
            tiny.smolvlm_processor(num_image_tokens=None)

    def test_settings_are_the_same_after_loading(self, tmp_path):
        processor = design(**SPLIT, **ASPECT)
        processor.save_pretrained(tmp_path)
        loaded = AutoProcessor.from_pretrained(tmp_path)
        assert loaded.num_image_tokens is None
        assert loaded.image_processor.do_image_splitting is True
        assert dict(loaded.image_processor.size) == {"longest_edge": 64}
        expected, batch = (each.apply_chat_template(CHAT, return_labels=True) for each in (processor, loaded))
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
USES = [
    ("mlp", "autoregressive", ASPECT),
    ("perceiver", "autoregressive", SPLIT),
    ("pixel_shuffle", "cross_attention", {**SPLIT, **ASPECT}),
]


@pytest.mark.parametrize(("connector", "fusion", "images"), USES, ids=str)
class TestUse:
    @pytest.fixture
    def model(self, connector, fusion) -> SmolVLM:
        model = design_model(connector, fusion)
        # The model knows more tokens than the tokenizer, which writes nothing for them.
        model.generation_config.suppress_tokens = [3, *range(tiny.IMAGE_TOKEN_ID, 99)]
        return model

    @pytest.fixture
    def processor(self, model, images) -> VlmkitSmolVLMProcessor:
        return tiny.crops_processor(model.config, **images)

    @staticmethod
    def chats() -> list[dict]:
        """One image, two of other sizes, and none."""
        two = [tiny.turn("user", "a photo", HIGH, WIDE), tiny.turn("assistant", "a red bus")]
        none = [tiny.turn("user", "is a tree green"), tiny.turn("assistant", "a tree")]
        return [{"messages": messages} for messages in (CHAT, two, none)]

    def test_a_batch_of_chats_has_what_the_model_needs(self, model, processor, images):
        batch = ChatCollator(processor)(self.chats())
        expected = {"input_ids", "attention_mask", "labels", "pixel_values", "num_crops"} | (
            {"pixel_attention_mask"} if "size" in images else set()
        )
        assert batch.keys() == expected
        assert len(batch["pixel_values"]) == (15 if SPLIT.items() <= images.items() else 3)
        assert model(**batch).loss.isfinite()
        if "size" in images:  # padding is not seen
            batch["pixel_values"] = batch["pixel_values"].masked_fill(batch["pixel_attention_mask"][:, None] == 0, 7.0)
            torch.testing.assert_close(model(**batch).loss, model(**ChatCollator(processor)(self.chats())).loss)

    def test_replies_are_what_generate_writes_for_each_alone(self, model, processor):
        asked, expected = [{"messages": chat["messages"][:-1]} for chat in self.chats()], []
        for chat in asked:
            inputs = processor.apply_chat_template(chat["messages"], **TO_ANSWER)
            written = model.generate(**inputs, **OPTIONS)[0, inputs["input_ids"].shape[1] :]
            expected.append(processor.decode(written, skip_special_tokens=True).strip())
        assert len(set(expected)) == 3
        for batch_size in (1, 3):
            assert reply_to_chats(model, processor, asked, batch_size=batch_size, **OPTIONS) == expected

    def test_a_pipeline_writes_the_same(self, model, processor, tmp_path):
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        asked = [{"messages": chat["messages"][:-1]} for chat in self.chats()]
        expected = reply_to_chats(model, processor, asked, **OPTIONS)
        chat = pipeline("image-text-to-text", model=str(tmp_path))
        answers = [chat(text=each["messages"], return_full_text=False, **OPTIONS)[0] for each in asked]
        assert [answer["generated_text"].strip() for answer in answers] == expected

    def test_trainer_trains_and_evaluates(self, model, processor, tmp_path):
        arguments = TrainingArguments(
            tmp_path,
            max_steps=2,
            per_device_train_batch_size=2,
            learning_rate=0.01,
            remove_unused_columns=False,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            save_strategy="no",
        )
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        rows, collator = self.chats(), ChatCollator(processor)
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=collator)
        assert trainer.train().global_step == 2
        changed = {name.split(".")[1] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        parts = {"connector", "language_model"}
        if model.model.cross_attention is not None:
            parts.add("cross_attention")
        assert changed == parts
        assert trainer.evaluate()["eval_loss"] > 0
