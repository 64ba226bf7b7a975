import pytest
import torch
from tests import tiny
from tests.tiny import turn
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerFast

from vlmkit import VlmkitSmolVLMProcessor

PHOTO = tiny.photo()
CHAT = [turn("user", "is this a dog", PHOTO), turn("assistant", "a cat")]
WRITTEN = "<|im_start|> user <image> <image> <image> is this a dog <|im_end|> <|im_start|> assistant a cat <|im_end|>"
TO_ANSWER = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}


@pytest.fixture
def processor() -> VlmkitSmolVLMProcessor:
    return tiny.smolvlm_processor()


def words(processor: VlmkitSmolVLMProcessor, batch: BatchFeature, name: str = "input_ids") -> list[str]:
    """Tokens of each row without its padding and its line breaks, or the labels of those that have one."""
    rows = []
    for tokens, kept in zip(batch[name], batch["attention_mask"], strict=True):
        chosen = tokens[(kept == 1) & (tokens != -100)]
        rows.append(" ".join(" ".join(processor.tokenizer.convert_ids_to_tokens(chosen.tolist())).split()))
    return rows


class TestTexts:
    def test_an_image_token_becomes_the_placeholders_of_an_image(self, processor):
        photos = [tiny.photo(seed=row) for row in range(3)]
        batch = processor(photos, ["<image> a dog", "a <image> and <image>"], return_tensors="pt")
        assert words(processor, batch) == [
            "<image> <image> <image> a dog",
            "a <image> <image> <image> and <image> <image> <image>",
        ]
        assert batch.keys() == {"pixel_values", "input_ids", "attention_mask"}
        assert batch["attention_mask"].tolist() == [[0] * 3 + [1] * 5, [1] * 8]
        alone = torch.cat([processor(images=photo, return_tensors="pt")["pixel_values"] for photo in photos])
        assert torch.equal(batch["pixel_values"], alone)

    def test_images_may_be_given_for_each_text(self, processor):
        photos = [tiny.photo(seed=row) for row in range(3)]
        texts = ["<image> a dog", "a <image> and <image>"]
        flat, nested = (processor(images, texts, return_tensors="pt") for images in (photos, [photos[:1], photos[1:]]))
        assert all(torch.equal(flat[name], nested[name]) for name in flat)

    def test_without_images_the_placeholders_are_for_vision_features(self, processor):
        for texts in ("a <image>", ["a <image>"]):
            batch = processor(text=texts, return_tensors="pt")
            assert words(processor, batch) == ["a <image> <image> <image>"]
            assert "pixel_values" not in batch

    def test_may_have_no_images(self, processor):
        assert words(processor, processor(text=["a dog", "a"], return_tensors="pt")) == ["a dog", "a"]

    def test_are_never_cut_unless_asked_for(self, processor):
        assert processor(text="a " * 300, return_tensors="pt")["input_ids"].shape == (1, 300)
        cut = processor(text="a " * 300, truncation=True, max_length=7, return_tensors="pt")
        assert cut["input_ids"].shape == (1, 7)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"images": [PHOTO] * 2, "text": ["<image> a"]}, "total 1 <image> tokens and 2 images"),
            ({"images": PHOTO, "text": ["<image> a", "<image>"]}, "total 2 <image> tokens and 1 images"),
            ({"images": PHOTO, "text": "a"}, "total 0 <image> tokens and 1 images"),
            (
                {"images": [[PHOTO, PHOTO], [PHOTO]], "text": ["<image> a", "<image> <image>"]},
                r"Text 0 must have 2 <image>, one for each of its images, but has 1",
            ),
            (
                {"images": [[PHOTO], []], "text": ["a", "<image>"]},
                r"Text 0 must have 1 <image>, one for each of its images, but has 0",
            ),
            ({"images": [], "text": "a"}, "`images` must not be an empty list"),
            ({"text": []}, "`text` must not be an empty list"),
            ({"text": ["a", " "]}, "Text 1 must not be empty"),
            ({"text": ["a", None]}, "list of strings"),
            ({}, "at least one input"),
        ],
    )
    def test_images_and_texts_that_do_not_fit_are_rejected(self, processor, arguments, message):
        with pytest.raises(ValueError, match=message):
            processor(**arguments, return_tensors="pt")

    @pytest.mark.parametrize("images", [{}, {"images": [PHOTO, PHOTO]}])
    def test_an_image_cut_by_truncation_is_rejected(self, processor, images):
        message = r"image.*ids=\[1, 3\] and text=\[3, 3\].*increase `max_length`"
        with pytest.raises(ValueError, match=message):
            processor(text=["a red dog <image>", "<image> a"], truncation=True, max_length=4, **images)


class TestConversations:
    def test_are_written_in_chatml_and_padded_on_the_left(self, processor):
        photos = [tiny.photo(seed=row) for row in range(2)]
        long = [turn("system", "the"), turn("user", "and", *photos), turn("assistant", "a"), turn("user", "cat")]
        batch = processor.apply_chat_template([long, CHAT[:1]], **TO_ANSWER)
        assert words(processor, batch) == [
            "<|im_start|> system the <|im_end|> <|im_start|> user <image> <image> <image> <image> <image> <image> and "
            "<|im_end|> <|im_start|> assistant a <|im_end|> <|im_start|> user cat <|im_end|> <|im_start|> assistant",
            "<|im_start|> user <image> <image> <image> is this a dog <|im_end|> <|im_start|> assistant",
        ]
        assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist())
        expected = [processor(images=each, return_tensors="pt")["pixel_values"] for each in (*photos, PHOTO)]
        assert torch.equal(batch["pixel_values"], torch.cat(expected))

    def test_as_a_text_are_what_smollm_has_learnt(self, processor):
        expected = "<|im_start|>user\n<image>is this a dog<|im_end|>\n<|im_start|>assistant\na cat<|im_end|>\n"
        assert processor.apply_chat_template(CHAT) == expected
        asked = processor.apply_chat_template(CHAT[:1], add_generation_prompt=True)
        assert asked == "<|im_start|>user\n<image>is this a dog<|im_end|>\n<|im_start|>assistant\n"
        assert expected.startswith(asked)

    def test_may_have_strings_as_contents(self, processor):
        strings = [{"role": "user", "content": "a dog"}, {"role": "assistant", "content": "a cat"}]
        parts = [turn("user", "a dog"), turn("assistant", "a cat")]
        assert processor.apply_chat_template(strings) == processor.apply_chat_template(parts)
        batch = processor.apply_chat_template(strings, return_labels=True)
        assert words(processor, batch, "labels") == ["a cat <|im_end|>"]
        assert "pixel_values" not in batch

    def test_may_have_images_from_files(self, processor, tmp_path):
        PHOTO.save(tmp_path / "photo.png")
        expected = processor.apply_chat_template(CHAT, **TO_ANSWER)["pixel_values"]
        path = str(tmp_path / "photo.png")
        for image in (
            {"type": "image", "path": path},
            {"type": "image", "url": path},
            {"type": "image", "image": path},
            {"type": "image_url", "image_url": {"url": path}},
        ):
            chat = [{"role": "user", "content": [image, {"type": "text", "text": "a"}]}]
            batch = processor.apply_chat_template(chat, **TO_ANSWER)
            assert torch.equal(batch["pixel_values"], expected)
            assert (batch["input_ids"] == processor.image_token_id).sum() == 3

    def test_may_come_from_tables_which_hold_what_a_part_lacks_as_none(self, processor):
        image = {"type": "image", "image": PHOTO, "url": None, "text": None}
        text = {"type": "text", "image": None, "url": None, "text": "is this a dog"}
        rows = [{"role": "user", "content": [image, text]}, CHAT[1]]
        batch = processor.apply_chat_template(rows, return_labels=True)
        expected = processor.apply_chat_template(CHAT, return_labels=True)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)
        assert rows[0]["content"][0] is image  # the table is as it was

    def test_without_images_have_placeholders_for_vision_features(self, processor):
        batch = processor.apply_chat_template([turn("user", "a", True, True), CHAT[1]], return_labels=True)
        assert (batch["input_ids"] == processor.image_token_id).sum() == 6
        assert batch.keys() == {"input_ids", "attention_mask", "labels"}

    def test_may_have_a_template_of_their_own(self, tmp_path):
        template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
        tiny.smolvlm_processor(chat_template=template).save_pretrained(tmp_path)
        loaded = AutoProcessor.from_pretrained(tmp_path)
        assert loaded.apply_chat_template([{"role": "user", "content": "a dog"}]) == "a dog "

    @pytest.mark.parametrize("return_labels", [False, True])
    @pytest.mark.parametrize(
        ("conversation", "message"),
        [
            ([], "A conversation must have at least one message"),
            ([CHAT, []], "A conversation must have at least one message"),
            ([[], CHAT], "A conversation must have at least one message"),
            ("hello", r"A conversation must be a list of messages .*, but got 'hello'"),
            ({"role": "user", "content": "a"}, "A conversation must be a list of messages"),
            ([CHAT[0], "a"], "A conversation must be a list of messages"),
            (
                [turn("asistant", "a")],
                "`role` of message 0 .* got 'asistant'. Did you mean 'assistant'",
            ),
            (
                [CHAT[0], {"content": "a"}],
                "`role` of message 1 must be one of 'system', 'user', .*, but got None",
            ),
            ([{"role": "user", "content": ""}, CHAT[1]], r"Message 0 \(user\) must not be empty\. Remove it"),
            ([{"role": "user"}, CHAT[1]], r"Message 0 \(user\) must not be empty\. Remove it"),
            ([CHAT[0], {"role": "assistant", "content": []}], r"Message 1 \(assistant\) must not be empty\. Remove it"),
            (
                [CHAT[0], turn("assistant", " ")],
                r"Message 1 \(assistant\) must have a text\. Add the reply, or remove the message",
            ),
            (
                [CHAT[0], {"role": "assistant", "content": [{"type": "image"}]}],
                r"Message 1 \(assistant\) must have a text",
            ),
            (
                [{"role": "user", "content": [{"type": "video"}]}],
                "`type` of a part of message 0 must be one of .*, but got 'video'",
            ),
            (
                [{"role": "user", "content": [{"text": "a"}]}],
                "`type` of a part of message 0 must be one of .*, but got None",
            ),
            ([{"role": "user", "content": [{"type": "text"}]}], r"Message 0 \(user\) has a text part without a text"),
            ([{"role": "user", "content": [{"type": "text", "text": None}]}], "has a text part without a text. Add"),
            (
                [{"role": "user", "content": ["a"]}],
                "The content of message 0 .* must be a string or a list of parts",
            ),
            (
                [turn("user", "an <image> tag", PHOTO)],
                r"The texts of message 0 \(user\) must not contain <image>\. Pass images as parts",
            ),
            ([{"role": "user", "content": "<image>a"}], "texts of message 0 .* must not contain <image>"),
        ],
    )
    def test_invalid_ones_are_rejected(self, processor, conversation, message, return_labels):
        with pytest.raises(ValueError, match=message):
            processor.apply_chat_template(conversation, return_labels=return_labels)

    def test_with_more_placeholders_than_images_are_rejected(self, processor):
        with pytest.raises(ValueError, match=r"Text 0 must have 1 <image>, one for each of its images, but has 2"):
            processor.apply_chat_template([turn("user", "a", PHOTO, True), CHAT[1]], return_labels=True)

    def test_are_checked_each_by_itself(self, processor):
        """The first has a place too many, the second an image: their sums agree."""
        twice = {"role": "user", "content": [{"type": "image", "image": PHOTO, "path": PHOTO}]}
        with pytest.raises(ValueError, match=r"Text 0 must have 1 <image>, one for each of its images, but has 2"):
            processor.apply_chat_template([[turn("user", "a", PHOTO, True)], [twice]], **TO_ANSWER)


class TestLabels:
    def test_are_what_the_assistant_says_and_the_ends_of_its_turns(self, processor):
        batch = processor.apply_chat_template(tiny.conversations(), return_labels=True)
        assert words(processor, batch, "labels") == [
            "a small red circle <|im_end|>",
            "a cat <|im_end|> the dog runs on grass <|im_end|>",
            "a tree <|im_end|>",
        ]
        assert (batch["labels"] != -100).sum(dim=1).tolist() == [5, 9, 3]
        assert (batch["labels"] == processor.tokenizer.pad_token_id).sum(dim=1).tolist() == [1, 2, 1]
        said = batch["labels"] != -100
        assert torch.equal(batch["labels"][said], batch["input_ids"][said])
        assert batch["attention_mask"].tolist() == [[1] * n + [0] * (37 - n) for n in (21, 37, 22)]
        assert batch["pixel_values"].shape == (3, 3, 32, 32)

    def test_are_at_the_same_words_for_one_conversation_and_for_many(self, processor):
        alone = processor.apply_chat_template(CHAT, return_labels=True)
        assert words(processor, alone) == [WRITTEN]
        assert alone["labels"].tolist() == [[-100] * 15 + [7, 24, tiny.TURN_END, -100]]
        many = processor.apply_chat_template([CHAT, CHAT], return_labels=True)
        assert torch.equal(many["labels"], alone["labels"].expand(2, -1))

    def test_do_not_depend_on_the_padding_side(self, processor):
        chats = [CHAT, tiny.conversations()[1]]
        right = processor.apply_chat_template(chats, return_labels=True)
        left = processor.apply_chat_template(chats, return_labels=True, processor_kwargs={"padding_side": "left"})
        assert left["attention_mask"][0, 0] == 0
        assert words(processor, left, "labels") == words(processor, right, "labels")

    def test_leave_out_images_that_the_assistant_shows(self, processor):
        shows = {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image", "image": PHOTO}]}
        shows["content"].append({"type": "text", "text": "cat"})
        batch = processor.apply_chat_template([CHAT[0], shows, *CHAT], return_labels=True)
        assert words(processor, batch, "labels") == ["a cat <|im_end|> a cat <|im_end|>"]
        assert (batch["input_ids"] == processor.image_token_id).sum() == 9

    def test_end_where_the_text_behind_the_images_is_cut(self, processor):
        cut = {"truncation": True, "max_length": 17}
        batch = processor.apply_chat_template([CHAT, CHAT], return_labels=True, processor_kwargs=cut)
        assert batch["labels"].shape == (2, 17)
        assert words(processor, batch, "labels") == ["a cat"] * 2

    def test_without_anything_to_learn_from_are_rejected(self, processor):
        with pytest.raises(
            ValueError, match=r"Conversation 1 must have a reply of the assistant to compute labels, but has none"
        ):
            processor.apply_chat_template([CHAT, CHAT[:1]], return_labels=True)
        cut = {"truncation": True, "max_length": 15}
        with pytest.raises(
            ValueError, match=r"Conversation 0 must have a reply of the assistant to compute labels, but has none"
        ):
            processor.apply_chat_template(CHAT, return_labels=True, processor_kwargs=cut)

    def test_an_image_cut_by_truncation_is_rejected(self, processor):
        cut = {"truncation": True, "max_length": 5}
        with pytest.raises(ValueError, match=r"image.*ids=\[2\] and text=\[3\].*increase `max_length`"):
            processor.apply_chat_template(CHAT, return_labels=True, processor_kwargs=cut)


class TestPlainTemplate:
    """For tokenizers that know no ChatML."""

    @pytest.fixture
    def processor(self) -> VlmkitSmolVLMProcessor:
        vocab = {word: row for row, word in enumerate(["<unk>", "<eos>", "User:", "Assistant:", "\n", *tiny.WORDS])}
        backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        split = [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
        backend.pre_tokenizer = pre_tokenizers.Sequence(split)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")
        return VlmkitSmolVLMProcessor(tiny.image_processor(), tokenizer, num_image_tokens=3)

    def test_writes_lines_and_ends_what_the_assistant_says(self, processor):
        assert processor.apply_chat_template(CHAT) == "User: <image>is this a dog\nAssistant: a cat<eos>\n"
        asked = processor.apply_chat_template(CHAT[:1], add_generation_prompt=True)
        assert asked == "User: <image>is this a dog\nAssistant:"

    def test_is_that_of_base_models_whose_texts_end_otherwise(self):
        """SmolLM's and Qwen's have the tokens of ChatML, too, but generation would not stop at them."""
        tokenizer = tiny.chat_tokenizer()
        tokenizer.eos_token = "<unk>"
        processor = VlmkitSmolVLMProcessor(tiny.image_processor(), tokenizer)
        assert processor.apply_chat_template(CHAT) == "User: <image>is this a dog\nAssistant: a cat<unk>\n"

    def test_labels_are_what_the_assistant_says_and_the_end(self, processor):
        batch = processor.apply_chat_template([CHAT, [*CHAT, *CHAT]], return_labels=True)
        assert words(processor, batch, "labels") == ["a cat <eos>", "a cat <eos> a cat <eos>"]
        assert processor.tokenizer.pad_token == "<eos>"


class TestProcessor:
    def test_adds_the_image_token_to_the_tokenizer_once(self, processor):
        size = len(processor.tokenizer)
        again = VlmkitSmolVLMProcessor(tiny.image_processor(), processor.tokenizer)
        assert len(again.tokenizer) == size
        assert again.image_token_id == tiny.IMAGE_TOKEN_ID
        other = tiny.smolvlm_processor(image_token="<picture>")
        assert words(other, other(text="<picture>", return_tensors="pt")) == ["<picture> <picture> <picture>"]
        assert other.apply_chat_template(CHAT).startswith("<|im_start|>user\n<picture>is")

    def test_leaves_image_and_turn_tokens_out_of_what_it_decodes(self, processor):
        batch = processor.apply_chat_template(CHAT, return_labels=True)
        decoded = processor.decode(batch["input_ids"][0], skip_special_tokens=True)
        assert " ".join(decoded.split()) == "user is this a dog assistant a cat"

    @pytest.mark.parametrize("value", [0, -1])
    def test_of_images_without_tokens_is_rejected(self, value):
        with pytest.raises(
            ValueError,
            match=f"`num_image_tokens` must be at least 1, but got {value}. Use the model's `config.num_query_tokens`",
        ):
            tiny.smolvlm_processor(num_image_tokens=value)

    def test_without_padding_and_end_is_rejected(self):
        tokenizer = tiny.tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(ValueError, match="must have a `pad_token` or an `eos_token`"):
            VlmkitSmolVLMProcessor(tiny.image_processor(), tokenizer)

    def test_of_a_tokenizer_that_ends_prompts_is_rejected(self):
        tokenizer = tiny.chat_tokenizer()
        end = processors.TemplateProcessing(single="$A <|im_end|>", special_tokens=[("<|im_end|>", tiny.TURN_END)])
        tokenizer.backend_tokenizer.post_processor = end
        with pytest.raises(
            ValueError,
            match=r"must not end every text, prompts included, with <\|im_end\|>.* Set `add_eos_token=False`",
        ):
            VlmkitSmolVLMProcessor(tiny.image_processor(), tokenizer)

    def test_is_the_same_after_loading(self, processor, tmp_path):
        processor.save_pretrained(tmp_path)
        loaded = AutoProcessor.from_pretrained(tmp_path)
        assert type(loaded) is VlmkitSmolVLMProcessor
        assert (loaded.num_image_tokens, loaded.image_token, loaded.image_token_id) == (3, "<image>", 35)
        assert loaded.chat_template == processor.chat_template
        for call in ({"return_labels": True}, TO_ANSWER):
            expected, batch = (each.apply_chat_template(CHAT, **call) for each in (processor, loaded))
            assert batch.keys() == expected.keys()
            assert all(torch.equal(batch[name], expected[name]) for name in expected)

    def test_token_counts_for_servers(self, processor):
        assert processor._get_num_multimodal_tokens([(10, 20), (30, 40)]).num_image_tokens == [3, 3]
        assert processor._get_num_multimodal_tokens().num_image_tokens is None
