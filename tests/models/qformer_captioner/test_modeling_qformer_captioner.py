"""What is particular to QFormerCaptioner's forward pass; what all models share is in test_contract.py."""

import gc
import math
import re
import weakref

import pytest
import torch
from tests import tiny
from tests.models.qformer_captioner.large import captioner
from tests.models.qformer_captioner.plain_forward import PlainForward
from torch.nn.functional import cross_entropy
from transformers import ResNetConfig

from vlmkit import QFormerCaptioner
from vlmkit.compat.cache import CACHE_NAME


@pytest.fixture(params=["gpt_neo", "gpt2", "llama"])
def model(request) -> QFormerCaptioner:
    return captioner(request.param)


def inputs(labels: bool = False) -> dict[str, torch.Tensor]:
    """Three images and captions of different lengths."""
    batch = tiny.qformer_captioner_inputs()
    return batch if labels else {name: value for name, value in batch.items() if name != "labels"}


def vision_tokens(model: QFormerCaptioner, pixel_values: torch.Tensor) -> torch.Tensor:
    """The patch tokens, without the class token."""
    return model.get_encoder("image").backbone(pixel_values).last_hidden_state[:, 1:]


class TestLayers:
    def test_their_order_is_the_originals(self):
        model, batch = captioner(), inputs()
        assert batch["input_ids"].shape[1] > 2 * model.config.text_config.window_size
        expected = PlainForward(model)(vision_tokens(model, batch["pixel_values"]), batch["input_ids"])
        logits = model(**batch).logits
        attended = batch["attention_mask"] == 1
        assert expected.std() > 0.5
        torch.testing.assert_close(logits[attended], expected[attended], rtol=1e-5, atol=1e-5)

    def test_queries_and_global_token_start_small_and_different(self):
        model = QFormerCaptioner(tiny.qformer_captioner_config(num_query_tokens=500))
        connector = model.model.connector
        assert connector.query_tokens.shape == (1, 500, 16)
        assert connector.global_token.shape == (1, 1, 16)
        assert connector.query_tokens.std().item() == pytest.approx(0.02, rel=0.05)
        assert 0.005 < connector.global_token.std().item() < 0.04
        assert model.model.cross_attention.scale.item() == 1

    def test_dropout_reaches_every_part_in_training_only(self):
        model, batch = captioner(dropout=0.5), inputs()
        torch.testing.assert_close(model(**batch).logits, model(**batch).logits, rtol=0, atol=0)
        for part in (model.model.embedding_dropout, model.model.connector, model.model.cross_attention):
            part.train()
            assert not torch.allclose(model(**batch).logits, model(**batch).logits)
            model.eval()

    @pytest.mark.parametrize("layers", [[1, -1], [0], [2, 1, 0]])
    def test_each_vision_layer_has_a_projection_of_its_own(self, layers):
        model, batch = captioner(vision_layers=layers), inputs()
        features = model.get_image_features(batch["pixel_values"])
        states = model.get_encoder("image").backbone(batch["pixel_values"], output_hidden_states=True).hidden_states
        projections = model.model.connector.vision_projection.layers
        assert len(projections) == len(layers)
        expected = [projection(states[layer][:, 1:]) for projection, layer in zip(projections, layers, strict=True)]
        torch.testing.assert_close(features.image_hidden_states, torch.cat(expected, dim=1))
        assert features.last_hidden_state.shape == (3, 4, 16)

    def test_a_cnn_gives_tokens_too(self):
        cnn = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
        model = captioner(vision_config=cnn)
        outputs = model(**inputs())
        assert outputs.image_hidden_states.shape == (3, 16, 16)  # 32 x 32 pixels, by 8


class TestInformation:
    def test_another_image_gives_other_logits(self, model):
        batch = inputs()
        others = {**batch, "pixel_values": batch["pixel_values"].roll(1, dims=0)}
        difference = (model(**batch).logits - model(**others).logits).abs()
        assert (difference.amax(dim=2) > 1e-2).all()  # at every position, the first included

    def test_no_position_sees_later_text(self, model):
        batch = inputs()
        changed = {**batch, "input_ids": batch["input_ids"].clone()}
        changed["input_ids"][:, 3:] = 20
        before, after = model(**batch).logits, model(**changed).logits
        torch.testing.assert_close(before[:, :3], after[:, :3], rtol=1e-5, atol=1e-5)
        assert (before - after)[:, 3].abs().max() > 1e-2

    def test_rows_of_a_batch_do_not_see_each_other(self, model):
        batch = inputs()
        logits = model(**batch).logits
        for row in range(3):
            alone = model(**{name: value[row : row + 1] for name, value in batch.items()}).logits
            torch.testing.assert_close(alone[0], logits[row], rtol=1e-4, atol=1e-5)


class TestInputs:
    def test_vision_features_stand_for_pixels(self, model):
        batch = inputs(labels=True)
        expected = model(**batch)
        tokens = vision_tokens(model, batch.pop("pixel_values"))
        outputs = model(**batch, vision_features=tokens)
        torch.testing.assert_close(outputs.logits, expected.logits)
        torch.testing.assert_close(outputs.loss, expected.loss)
        half = model(**batch, vision_features=tokens.half())  # as a feature cache may hold them
        torch.testing.assert_close(half.logits, expected.logits, rtol=0.1, atol=0.1)

    def test_vision_features_of_several_layers(self):
        model, batch = captioner(vision_layers=[0, -1]), inputs()
        expected = model(**batch).logits
        tokens = model.get_encoder("image")(batch.pop("pixel_values")).last_hidden_state
        torch.testing.assert_close(model(**batch, vision_features=tokens).logits, expected)

    def test_cross_attention_states_stand_for_images(self, model):
        batch = inputs()
        expected = model(**batch)
        states = model.model.compute_cross_attention_states(expected.query_embeds)
        keys, values = model.model.cross_attention.attention.key_values(expected.query_embeds)
        torch.testing.assert_close(states, torch.stack([keys, values], dim=1), rtol=0, atol=0)
        assert states.shape == (3, 2, 2, 1 + 3, 8)
        del batch["pixel_values"]
        outputs = model(**batch, cross_attention_states=states)
        torch.testing.assert_close(outputs.logits, expected.logits)
        assert outputs.query_embeds is None

    def test_embeddings_stand_for_tokens(self, model):
        batch = inputs()
        expected = model(**batch).logits
        embeds = model.get_input_embeddings()(batch.pop("input_ids"))
        torch.testing.assert_close(model(**batch, inputs_embeds=embeds).logits, expected)

    def test_no_mask_means_no_padding(self, model):
        batch = {name: value[1:2] for name, value in inputs().items()}  # the longest
        assert batch["attention_mask"].all()
        expected = model(**batch).logits
        del batch["attention_mask"]
        torch.testing.assert_close(model(**batch).logits, expected)

    @pytest.mark.parametrize("kept", [1, 3, torch.tensor([0, 2])])
    def test_logits_of_some_positions(self, model, kept):
        batch = inputs()
        chosen = slice(-kept, None) if isinstance(kept, int) else kept
        logits = model(**batch, logits_to_keep=kept).logits
        torch.testing.assert_close(logits, model(**batch).logits[:, chosen])

    def test_a_cache_continues_a_text(self, model):
        batch = {name: value[:, :5] if name != "pixel_values" else value for name, value in inputs().items()}
        expected = model(**batch).logits
        ids, mask = batch.pop("input_ids"), batch.pop("attention_mask")
        start = model(**batch, input_ids=ids[:, :3], attention_mask=mask[:, :3], use_cache=True)
        cache = {CACHE_NAME: start[CACHE_NAME]}
        rest = model(**batch, input_ids=ids[:, 3:], attention_mask=mask, **cache)
        torch.testing.assert_close(rest.logits, expected[:, 3:], rtol=1e-5, atol=1e-5)

    def test_trainer_can_switch_the_cache_off(self, model):
        assert model(**inputs())[CACHE_NAME] is not None
        model.config.use_cache = False  # as Trainer does, on the whole only
        assert model(**inputs()).get(CACHE_NAME) is None
        model.config.use_cache = True

    def test_tokens_of_another_precision(self, model):
        batch = inputs()
        tokens = model.get_encoder("image")(batch.pop("pixel_values")).last_hidden_state
        model.get_encoder("image").to(torch.bfloat16)  # as after loading a frozen tower in less memory
        outputs = model(**batch, vision_features=tokens.half())
        assert outputs.logits.dtype == torch.float32
        model.get_encoder("image").to(torch.float32)

    def test_blocks_with_a_residual_stay_on_one_device(self, model):
        of_text = set(model.get_decoder()._no_split_modules)
        assert {"CaptionerQFormerLayer", "ImageCrossAttention"} | of_text <= set(model._no_split_modules)
        assert {type(layer).__name__ for layer in model.model.connector.layers} == {"CaptionerQFormerLayer"}
        assert type(model.model.cross_attention).__name__ == "ImageCrossAttention"
        assert of_text


class TestLoss:
    def test_is_the_mean_over_words_and_real_ends(self, model):
        batch = inputs(labels=True)
        outputs = model(**batch)
        losses = []
        for logits, caption in zip(outputs.logits, tiny.SENTENCES, strict=True):
            words = [*tiny.tokenizer().convert_tokens_to_ids(caption.split()), 1]  # 1 is the end, and the padding
            losses += [cross_entropy(logits[row], torch.tensor(word)) for row, word in enumerate(words)]
        assert len(losses) == 5 + 13 + 5
        torch.testing.assert_close(outputs.loss, torch.stack(losses).mean())

    def test_more_padding_changes_nothing(self, model):
        batch = inputs(labels=True)
        expected = model(**batch).loss
        for name, filler in (("input_ids", 1), ("attention_mask", 0), ("labels", -100)):
            batch[name] = torch.cat([batch[name], torch.full((3, 4), filler)], dim=1)
        torch.testing.assert_close(model(**batch).loss, expected)

    def test_is_the_log_of_the_vocabulary_where_nothing_is_known(self):
        model = captioner()
        torch.nn.init.zeros_(model.get_output_embeddings().weight)
        assert model(**inputs(labels=True)).loss.item() == pytest.approx(math.log(99))

    def test_is_divided_by_the_items_of_all_accumulated_batches(self, model):
        batch = inputs(labels=True)
        num_items = (batch["labels"] != -100).sum()
        mean, part = model(**batch).loss, model(**batch, num_items_in_batch=num_items * 4).loss
        torch.testing.assert_close(part, mean / 4)

    def test_there_is_none_without_labels(self, model):
        assert model(**inputs()).loss is None


class TestAttentions:
    @pytest.mark.parametrize("text", ["gpt_neo", "llama"])
    def test_are_probabilities_under_any_implementation(self, text):
        model, batch = captioner(text), inputs()
        assert model.config._attn_implementation == "sdpa"
        plain = model(**batch)
        outputs = model(**batch, output_attentions=True)
        length = batch["input_ids"].shape[1]
        assert outputs.cross_attentions.shape == (3, 2, length, 1 + 3)
        assert [weights.shape for weights in outputs.query_attentions] == [(3, 2, 1 + 3, 4)] * 2
        for weights in (outputs.cross_attentions, *outputs.query_attentions):
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
            assert weights.std() > 0.05  # not the same everywhere
        torch.testing.assert_close(outputs.logits, plain.logits, rtol=1e-5, atol=1e-5)
        assert plain.cross_attentions is None
        assert plain.query_attentions is None

    def test_may_be_asked_for_in_the_configuration(self):
        model = captioner(attn_implementation="eager")  # transformers refuses it with any other
        model.config.output_attentions = True
        assert model(**inputs()).cross_attentions is not None

    def test_of_the_language_model_and_its_hidden_states(self):
        outputs = captioner()(**inputs(), output_attentions=True, output_hidden_states=True)
        assert [weights.shape for weights in outputs.attentions] == [(3, 2, 14, 14)] * 2
        assert [states.shape for states in outputs.hidden_states] == [(3, 14, 16)] * 3

    def test_nothing_is_kept_after_a_step(self):
        model = captioner().train()
        outputs = model(**inputs(labels=True), output_attentions=True)
        outputs.loss.backward()
        made = [weakref.ref(tensor) for tensor in (outputs.logits, outputs.cross_attentions, *outputs.query_attentions)]
        del outputs
        gc.collect()
        assert [reference() for reference in made] == [None] * len(made)


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pixel_values": None}, "the images either as `pixel_values` or as `vision_features`"),
            ({"vision_features": torch.rand(3, 4, 16)}, "the images either as `pixel_values` or as `vision_features`"),
            (
                {"cross_attention_states": torch.rand(3, 2, 2, 4, 8)},
                "either images or the `cross_attention_states` .* but not both",
            ),
            ({"input_ids": None}, "the texts either as `input_ids` or as `inputs_embeds`"),
            ({"inputs_embeds": torch.rand(3, 4, 16)}, "the texts either as `input_ids` or as `inputs_embeds`"),
            ({"pixel_values": torch.rand(2, 3, 32, 32)}, r"2 images and 3 texts\. Pass one image for each text"),
            ({"pixel_values": torch.rand(1, 3, 32, 32)}, "1 images and 3 texts"),
        ],
    )
    def test_an_image_and_a_text_are_given_once(self, change, message):
        with pytest.raises(ValueError, match=message):
            captioner()(**{**inputs(), **change})

    @pytest.mark.parametrize("shape", [(3, 4, 15), (3, 16), (3, 3, 32, 32)])
    def test_tokens_of_another_vision_tower_are_refused(self, shape):
        message = re.escape(
            f"`vision_features` must have the shape (images, tokens, 16), but got {shape}. Compute them with the vision"
        )
        with pytest.raises(ValueError, match=message):
            captioner()(**{**inputs(), "pixel_values": None}, vision_features=torch.rand(shape))

    def test_tokens_of_another_number_of_layers_are_refused(self):
        model = captioner(vision_layers=[0, -1])
        with pytest.raises(ValueError, match=r"tokens of 2 vision layers, 16\), but got \(3, 5, 16\)"):
            model(**{**inputs(), "pixel_values": None}, vision_features=torch.rand(3, 5, 16))

    def test_tokens_would_bypass_a_vision_tower_that_trains(self):
        model = captioner(freeze_vision=False)
        batch = {**inputs(), "pixel_values": None, "vision_features": torch.rand(3, 4, 16)}
        assert model(**batch).logits.isfinite().all()
        with pytest.raises(ValueError, match=r"`vision_features` cannot be used .*`freeze_vision=True`"):
            model.train()(**batch)

    @pytest.mark.parametrize(
        ("typo", "right"), [("pixel_value", "pixel_values"), ("vision_feature", "vision_features"), ("label", "labels")]
    )
    def test_a_misspelt_argument_is_refused(self, typo, right):
        with pytest.raises(
            TypeError, match=f"QFormerCaptioner.forward has no argument '{typo}'. Did you mean '{right}"
        ):
            captioner()(**inputs(), **{typo: torch.zeros(3)})

    def test_layers_that_the_vision_tower_does_not_have_are_refused(self):
        with pytest.raises(ValueError, match=r"must be from -3 to 2 for vit, .* but got 9"):
            captioner(vision_layers=[1, 9])(**inputs())
