"""A processor, and the model that is built with it: the processor counts image tokens, and contradictions raise."""

import copy
import json
from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.models.smolvlm.large import TEXT
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    TimmWrapperConfig,
    TimmWrapperModel,
    ViTModel,
)

from vlmkit import SmolVLM, VlmkitSmolVLMImageProcessor, VlmkitSmolVLMProcessor
from vlmkit.modules.backbones import restore_timm_initialization

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CLIP_VISION = {**SIZES, "image_size": 32, "patch_size": 8, "initializer_range": 0.5}
TIMM_CNN = {
    "architecture": "resnet10t",
    "model_args": {"channels": (8, 8, 16, 16), "stem_width": 8, "zero_init_last": False},
}
TIMM_PREPROCESSING = {
    "input_size": [3, 100, 100],  # no multiple of the stride: 4 x 4 patches, the last ones of which are padded
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
}
VISIONS = ("vit", "clip", "two-tower clip", "timm cnn")
# Every one computes 4 x 4 patches, without the class token of the first three.
NUM_IMAGE_TOKENS = {"mlp": 16, "pixel_shuffle": 4, "qformer": 3, "perceiver": 3}
FIELDS = {"qformer_config": tiny.distilbert_config(), "num_cross_attention_heads": 4, "cross_layer_interval": 1}
TO_ANSWER = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Saved image models and language models, with their preprocessing."""
    root = tmp_path_factory.mktemp("folders")
    clip_config = CLIPConfig(
        vision_config=CLIPVisionConfig(**CLIP_VISION), text_config=CLIPTextConfig(**SIZES, vocab_size=50)
    )
    models = {
        "vit": ViTModel(tiny.vision_config(patch_size=8, initializer_range=0.5), add_pooling_layer=False),
        "clip": CLIPVisionModel(CLIPVisionConfig(**CLIP_VISION)),
        "two-tower clip": CLIPModel(clip_config),
        "timm cnn": TimmWrapperModel(TimmWrapperConfig(**TIMM_CNN)),
    }
    restore_timm_initialization(models["timm cnn"])  # in whose place transformers puts values that are too small
    for name, model in models.items():
        model.save_pretrained(root / name)
        tiny.image_processor().save_pretrained(root / name)
    (root / "timm cnn/preprocessor_config.json").unlink()
    config = json.loads((root / "timm cnn/config.json").read_text())
    (root / "timm cnn/config.json").write_text(json.dumps({**config, "pretrained_cfg": TIMM_PREPROCESSING}))
    for name in ("llama", "gpt_neo"):
        text = copy.deepcopy(TEXT[name])
        text.max_position_embeddings = 256
        AutoModelForCausalLM.from_config(text).save_pretrained(root / name)
        tiny.chat_tokenizer().save_pretrained(root / name)
    return root


def make_processor(folders: Path, vision: str = "vit", **options) -> VlmkitSmolVLMProcessor:
    if options.get("connector", "qformer") in ("qformer", "perceiver"):
        options = {"num_query_tokens": 3, **options}
    return VlmkitSmolVLMProcessor.from_vision_text_pretrained(folders / vision, folders / "llama", **options)


def build(folders: Path, processor, vision: str = "vit", text: str = "llama", **fields) -> SmolVLM:
    return SmolVLM.from_vision_text_pretrained(
        folders / vision, folders / text, processor=processor, **{**FIELDS, **fields}
    )


def num_placeholders(processor, batch) -> list[int]:
    return (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist()


def check_runs(model: SmolVLM, processor: VlmkitSmolVLMProcessor) -> None:
    """Images and texts together, in training and in generation."""
    for block in () if model.model.cross_attention is None else model.model.cross_attention.blocks:
        torch.nn.init.constant_(block.attention_gate, 0.7)
    chats = [
        [tiny.turn("user", "is this a dog", tiny.photo(96, 48), tiny.photo(seed=1)), tiny.turn("assistant", "a cat")],
        [tiny.turn("user", "a tree", tiny.photo(40, 90, seed=2)), tiny.turn("assistant", "a red bus")],
    ]
    batch = processor.apply_chat_template(chats, return_labels=True)
    outputs = model(**batch)
    assert outputs.loss.isfinite()
    lengths = [len(image) for image in outputs.image_hidden_states]
    fusion = model.config.fusion
    expected = [sum(lengths[:2]), lengths[2]] if fusion == "autoregressive" else [2, 1]
    assert num_placeholders(processor, batch) == expected
    changed = {**batch, "pixel_values": -batch["pixel_values"]}
    assert (model(**changed).logits - outputs.logits).abs().max() > 1e-3
    prompts = processor.apply_chat_template([chat[:1] for chat in chats], **TO_ANSWER)
    written = model.generate(**prompts, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert written.shape == (2, prompts["input_ids"].shape[1] + 4)
    assert not (written[:, -4:] == processor.image_token_id).any()


class TestFixedSize:
    """Of images that the image processor resizes to a fixed height and width."""

    @pytest.mark.parametrize("vision", VISIONS)
    @pytest.mark.parametrize("connector", NUM_IMAGE_TOKENS)
    def test_image_tokens_are_counted(self, vision, connector, folders):
        processor = make_processor(folders, vision, connector=connector)
        assert processor.num_image_tokens == NUM_IMAGE_TOKENS[connector]
        model = build(folders, processor, vision)
        assert model.config.connector == processor.connector == connector
        images = processor(images=tiny.photo(), return_tensors="pt")
        features = model.get_image_features(**images).pooler_output
        assert len(features[0]) == NUM_IMAGE_TOKENS[connector]
        check_runs(model, processor)

    @pytest.mark.parametrize("vision", VISIONS)
    @pytest.mark.parametrize("connector", NUM_IMAGE_TOKENS)
    def test_with_cross_attention_an_image_has_one_placeholder(self, vision, connector, folders):
        processor = make_processor(folders, vision, connector=connector, fusion="cross_attention")
        assert processor.num_image_tokens == 1
        model = build(folders, processor, vision)
        assert model.config.fusion == processor.fusion == "cross_attention"
        check_runs(model, processor)

    @pytest.mark.parametrize(("factor", "num_tokens"), [(1, 16), (2, 4), (4, 1)])
    def test_the_factor_of_pixel_shuffle_counts(self, factor, num_tokens, folders):
        processor = make_processor(folders, connector="pixel_shuffle", pixel_shuffle_factor=factor)
        assert processor.num_image_tokens == num_tokens
        model = build(folders, processor)
        assert model.config.pixel_shuffle_factor == factor
        check_runs(model, processor)

    @pytest.mark.parametrize("factor", [3, 5, 8])
    def test_a_factor_that_does_not_divide_the_grid_is_rejected(self, factor, folders):
        message = rf"must divide the rows and columns of the 16 patches of an image of 32 x 32 .* but got {factor}"
        with pytest.raises(ValueError, match=message):
            make_processor(folders, connector="pixel_shuffle", pixel_shuffle_factor=factor)
        plain = tiny.smolvlm_processor(num_image_tokens=1)
        with pytest.raises(ValueError, match=message):
            build(folders, plain, connector="pixel_shuffle", pixel_shuffle_factor=factor)

    @pytest.mark.parametrize("factor", [0, -1])
    def test_a_factor_below_1_is_rejected(self, factor, folders):
        with pytest.raises(ValueError, match=f"`pixel_shuffle_factor` must be at least 1, but got {factor}"):
            make_processor(folders, connector="pixel_shuffle", pixel_shuffle_factor=factor)

    @pytest.mark.parametrize("number", [0, -1])
    def test_a_number_of_queries_below_1_is_rejected(self, number, folders):
        with pytest.raises(ValueError, match=f"`num_query_tokens` must be at least 1, but got {number}"):
            make_processor(folders, num_query_tokens=number)

    def test_a_size_that_depends_on_the_image_is_rejected(self, folders, tmp_path):
        ViTModel(tiny.vision_config()).save_pretrained(tmp_path)
        any_size = tiny.image_processor()
        any_size.do_center_crop = False
        any_size.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="CLIPImageProcessor must resize images to a fixed height and width"):
            VlmkitSmolVLMProcessor.from_vision_text_pretrained(tmp_path, folders / "llama", connector="mlp")


class TestOwnSize:
    """Of images that keep their aspect ratio or are split."""

    @pytest.mark.parametrize(("vision", "patch"), [("vit", 8), ("clip", 8), ("two-tower clip", 8), ("timm cnn", 32)])
    @pytest.mark.parametrize("connector", NUM_IMAGE_TOKENS)
    @pytest.mark.parametrize("fusion", ["autoregressive", "cross_attention"])
    def test_size_divisor_is_the_side_of_an_image_token(self, vision, patch, connector, fusion, folders):
        settings = {"size": {"longest_edge": 128}, "do_image_splitting": True}
        processor = make_processor(folders, vision, connector=connector, fusion=fusion, **settings)
        shuffled = 2 if connector == "pixel_shuffle" else 1
        assert processor.image_processor.size_divisor == patch * shuffled
        assert processor.image_processor.do_image_splitting
        if fusion == "cross_attention":
            assert processor.num_image_tokens == 1
        else:
            assert processor.num_image_tokens == (3 if connector in ("qformer", "perceiver") else None)
        model = build(folders, processor, vision)
        batch = processor(tiny.photo(96, 48), "<image> a", return_tensors="pt")
        assert batch["num_crops"].tolist() == [5]
        images = {name: value for name, value in batch.items() if name.startswith(("pixel", "num_crops"))}
        features = model.get_image_features(**images).pooler_output
        expected = len(features) if fusion == "cross_attention" else len(features[0])
        assert num_placeholders(processor, batch) == [expected]
        assert model(**batch).logits.isfinite().all()

    def test_another_size_divisor_is_rejected(self, folders):
        settings = {"size": {"longest_edge": 64}}
        processor = make_processor(folders, connector="mlp", size_divisor=16, **settings)
        with pytest.raises(ValueError, match=r"`size_divisor` .* must be 8, the side of an image token .* but got 16"):
            build(folders, processor)
        hand_built = VlmkitSmolVLMProcessor(
            VlmkitSmolVLMImageProcessor(size_divisor=8, **settings), tiny.chat_tokenizer(), None
        )
        with pytest.raises(ValueError, match=r"`size_divisor` .* must be 16, .* but got 8\. Set it to that value"):
            build(folders, hand_built, connector="pixel_shuffle")


class TestContradictions:
    @pytest.mark.parametrize(
        ("design", "fields"),
        [
            ({"connector": "mlp"}, {"connector": "perceiver"}),
            ({"connector": "qformer"}, {"connector": "mlp"}),
            ({"connector": "mlp"}, {"fusion": "cross_attention"}),
            ({"connector": "mlp", "fusion": "cross_attention"}, {"fusion": "autoregressive"}),
            ({"connector": "qformer", "num_query_tokens": 3}, {"num_query_tokens": 4}),
            ({"connector": "perceiver", "num_query_tokens": 5}, {"num_query_tokens": 64}),
            ({"connector": "pixel_shuffle"}, {"pixel_shuffle_factor": 4}),
            ({"connector": "mlp"}, {"image_token_id": 5}),
        ],
        ids=str,
    )
    def test_of_a_field_are_rejected(self, design, fields, folders):
        processor = make_processor(folders, **design)
        [(name, value)] = fields.items()
        own = getattr(processor, name)
        assert own != value
        with pytest.raises(ValueError, match=f"`{name}` must be {own!r} as in the processor, but got {value!r}"):
            build(folders, processor, **fields)
        build(folders, processor, **{name: own})  # the same value may be repeated

    @pytest.mark.parametrize(
        ("num_image_tokens", "fields", "expected"),
        [
            (4, {"connector": "mlp"}, 16),
            (16, {"connector": "pixel_shuffle"}, 4),
            (3, {"connector": "perceiver", "fusion": "cross_attention"}, 1),
            (3, {"connector": "qformer", "num_query_tokens": 5}, 5),
            (1, {"connector": "perceiver", "num_query_tokens": 64}, 64),
        ],
        ids=str,
    )
    def test_of_the_number_of_image_tokens_are_rejected(self, num_image_tokens, fields, expected, folders):
        processor = tiny.smolvlm_processor(num_image_tokens=num_image_tokens)
        message = f"`num_image_tokens` of the processor must be {expected} for this model, but got {num_image_tokens}"
        with pytest.raises(ValueError, match=message):
            build(folders, processor, **fields)

    def test_of_a_number_of_image_tokens_that_is_not_given_are_rejected(self, folders):
        images = VlmkitSmolVLMImageProcessor(size={"longest_edge": 64}, size_divisor=8)
        processor = VlmkitSmolVLMProcessor(images, tiny.chat_tokenizer(), None)
        with pytest.raises(ValueError, match="must be 3 for this model, but got None"):
            build(folders, processor, connector="qformer", num_query_tokens=3)

    def test_of_a_fixed_number_and_images_of_any_size_are_rejected(self, folders):
        images = VlmkitSmolVLMImageProcessor(size={"longest_edge": 64}, size_divisor=8)
        processor = VlmkitSmolVLMProcessor(images, tiny.chat_tokenizer(), 16)
        with pytest.raises(ValueError, match="must resize images to a fixed height and width"):
            build(folders, processor, connector="mlp")

    @pytest.mark.parametrize(
        ("design", "message"),
        [
            ({"connector": "mpl"}, "`connector` must be one of .*, but got 'mpl'. Did you mean 'mlp'"),
            ({"fusion": "cross-attention"}, "`fusion` must be one of .* 'cross_attention', but got 'cross-attention'."),
        ],
    )
    def test_an_unknown_design_is_rejected(self, design, message, folders):
        with pytest.raises(ValueError, match=message):
            make_processor(folders, **design)

    @pytest.mark.parametrize(
        ("misspelt", "right"),
        [("conector", "connector"), ("do_image_spliting", "do_image_splitting"), ("freeze_vision", None)],
    )
    def test_an_unknown_argument_is_rejected(self, misspelt, right, folders):
        hint = f" Did you mean '{right}'" if right else ""
        with pytest.raises(TypeError, match=rf"has no argument '{misspelt}'\.{hint}"):
            make_processor(folders, **{misspelt: "mlp"})

    def test_placeholder_and_template_can_be_chosen(self, folders):
        processor = make_processor(folders, image_token="<img>", chat_template="{{ messages[0]['content'] }}")
        assert processor.image_token == "<img>"
        conversation = [{"role": "user", "content": "is this a dog"}]
        assert processor.apply_chat_template(conversation) == "is this a dog"


class TestHandBuilt:
    """A processor that is made of parts leaves the design to the model."""

    @pytest.mark.parametrize(
        ("num_image_tokens", "fields"),
        [
            (3, {}),
            (3, {"connector": "perceiver"}),
            (16, {"connector": "mlp"}),
            (4, {"connector": "pixel_shuffle"}),
            (1, {"connector": "pixel_shuffle", "pixel_shuffle_factor": 4}),
            (1, {"connector": "mlp", "fusion": "cross_attention"}),
            (1, {"connector": "perceiver", "fusion": "cross_attention", "num_query_tokens": 5}),
        ],
        ids=str,
    )
    def test_fits_the_model(self, num_image_tokens, fields, folders):
        processor = tiny.smolvlm_processor(num_image_tokens=num_image_tokens)
        model = build(folders, processor, **fields)
        assert model.config.image_token_id == tiny.IMAGE_TOKEN_ID
        for name, value in fields.items():
            assert getattr(model.config, name) == value
        if not fields:
            assert (model.config.connector, model.config.num_query_tokens) == ("qformer", 3)
        check_runs(model, processor)

    @pytest.mark.parametrize(("connector", "divisor"), [("mlp", 8), ("pixel_shuffle", 16)])
    def test_for_images_of_any_size(self, connector, divisor, folders):
        images = VlmkitSmolVLMImageProcessor(size={"longest_edge": 64}, size_divisor=divisor)
        processor = VlmkitSmolVLMProcessor(images, tiny.chat_tokenizer(), None)
        check_runs(build(folders, processor, connector=connector), processor)


@pytest.mark.parametrize("design", [{"connector": "mlp"}, {"connector": "pixel_shuffle", "fusion": "cross_attention"}])
def test_a_processor_keeps_its_design_in_a_folder(design, folders, tmp_path):
    processor = make_processor(folders, **design)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    for name in ("connector", "fusion", "num_query_tokens", "pixel_shuffle_factor", "num_image_tokens", "image_token"):
        assert getattr(loaded, name) == getattr(processor, name)
    with pytest.raises(ValueError, match="`connector` must be"):
        build(folders, loaded, connector="qformer")
    check_runs(build(folders, loaded), loaded)


class TestLanguageModelsThatKeepKeywords:
    """GPT-Neo does not pass keywords on to its layers, which would never attend to an image."""

    @pytest.mark.parametrize("connector", ["mlp", "qformer"])
    def test_are_rejected_with_cross_attention(self, connector, folders):
        processor = make_processor(folders, connector=connector, fusion="cross_attention")
        message = r"GPTNeoModel does not pass keyword arguments on to its layers.* or set `fusion=\"autoregressive\"`"
        with pytest.raises(ValueError, match=message):
            build(folders, processor, text="gpt_neo")

    def test_are_accepted_with_images_in_the_text(self, folders):
        processor = make_processor(folders, connector="mlp")
        check_runs(build(folders, processor, text="gpt_neo"), processor)

    def test_no_forward_pass_runs_in_the_constructor(self):
        config = tiny.smolvlm_config(
            text_config=tiny.gpt_neo_config(), fusion="cross_attention", cross_layer_interval=1
        )
        with torch.device("meta"):
            model = SmolVLM(config)
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}

    def test_that_take_no_further_keywords_are_rejected_in_the_constructor(self, monkeypatch):
        config = tiny.smolvlm_config(fusion="cross_attention", cross_layer_interval=1)
        decoder = type(SmolVLM(config).get_decoder())
        monkeypatch.setattr(decoder, "forward", lambda self, input_ids=None, inputs_embeds=None: None)
        with pytest.raises(ValueError, match="LlamaModel does not pass keyword arguments on to its layers"):
            SmolVLM(config)
        SmolVLM(tiny.smolvlm_config())  # without cross-attention
