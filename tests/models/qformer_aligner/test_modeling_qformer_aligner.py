"""What is particular to QFormerAligner; what all models share is in test_contract.py."""

import math
import re

import pytest
import torch
from tests import tiny
from tests.models.qformer_aligner.large import ALL_LOSSES, aligner
from tests.models.qformer_aligner.plain_forward import PlainForward
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoModel, ResNetConfig

from vlmkit import QFormerAligner
from vlmkit.losses import info_nce, matching_pairs

MODES = ("unimodal", "multimodal", "multimodal_causal")
TEXT_HEADS = {"distilbert": 2, "bert": 3}


def inputs() -> dict[str, Tensor]:
    return tiny.qformer_aligner_inputs()


def as_tokens(model: QFormerAligner, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower's tokens in place of the pixels."""
    rest = {name: value for name, value in batch.items() if name != "pixel_values"}
    return {**rest, "vision_features": model.vision_tower(batch["pixel_values"]).last_hidden_state.detach()}


def on_the_left(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same texts, padded on the left."""
    shifts = (batch["attention_mask"] == 0).sum(1).tolist()
    rolled = {
        name: torch.stack([row.roll(shift) for row, shift in zip(batch[name], shifts, strict=True)])
        for name in ("input_ids", "attention_mask")
    }
    return {**batch, **rolled}


def rows(batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Image tokens and text of each pair, without padding."""
    masks = batch["attention_mask"].bool()
    return [
        (tokens, ids[mask])
        for tokens, ids, mask in zip(batch["vision_features"], batch["input_ids"], masks, strict=True)
    ]


class TestLayers:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("text", TEXT_HEADS)
    @pytest.mark.parametrize("fields", [{}, {"original_causal_mask": True}, {"cross_attention_frequency": 1}])
    def test_are_those_of_a_plain_computation(self, mode, text, fields):
        model = aligner(text, **fields)
        batch = as_tokens(model, inputs())
        plain = PlainForward(model, TEXT_HEADS[text])
        features = model.get_multimodal_features(**batch, attention_mode=mode)
        for row, (tokens, ids) in enumerate(rows(batch)):
            words, queries = plain(tokens, ids, mode)
            torch.testing.assert_close(features.text_hidden_state[row, : len(ids)], words, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(features.query_hidden_state[row], queries, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(features.query_pooled[row], queries.mean(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(features.text_pooled[row], words[0], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("mode", MODES)
    def test_eager_attention_equals_sdpa_even_where_nothing_is_attended(self, mode):
        batch = on_the_left(inputs())
        batch["attention_mask"][1] = 0
        features = [
            aligner(attn_implementation=name).get_multimodal_features(**batch, attention_mode=mode)
            for name in ("eager", "sdpa")
        ]
        torch.testing.assert_close(features[0].to_tuple(), features[1].to_tuple(), rtol=1e-4, atol=1e-5)
        assert all(value.isfinite().all() for value in features[0].to_tuple())

    @pytest.mark.parametrize("mode", MODES)
    def test_padding_on_the_left_gives_the_same(self, mode):
        model, batch = aligner(), inputs()
        left = on_the_left(batch)
        expected = model.get_multimodal_features(**batch, attention_mode=mode)
        features = model.get_multimodal_features(**left, attention_mode=mode)
        for name in ("query_hidden_state", "query_pooled", "text_pooled"):
            torch.testing.assert_close(features[name], expected[name], rtol=1e-4, atol=1e-5)
        kept, left_kept = batch["attention_mask"].bool(), left["attention_mask"].bool()
        torch.testing.assert_close(
            features.text_hidden_state[left_kept], expected.text_hidden_state[kept], rtol=1e-4, atol=1e-5
        )

    def test_new_queries_start_small_and_different(self):
        model = QFormerAligner(tiny.qformer_aligner_config(num_query_tokens=500))
        assert model.qformer.query_tokens.shape == (1, 500, 16)
        assert model.qformer.query_tokens.std().item() == pytest.approx(0.02, rel=0.05)

    def test_the_class_token_of_the_vision_tower_is_looked_at(self):
        model = aligner()
        assert as_tokens(model, inputs())["vision_features"].shape == (3, 1 + 4, 16)

    def test_a_cnn_of_another_width_is_projected(self):
        cnn = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
        model = aligner(vision_config=cnn)
        assert model.vision_projection.weight.shape == (16, 12)
        assert model(**inputs()).loss.isfinite()

    def test_dropout_works_in_training_only(self):
        model, batch = aligner(), inputs()
        torch.testing.assert_close(model(**batch).loss, model(**batch).loss, rtol=0, atol=0)
        model.train()
        assert model(**batch).loss != model(**batch).loss


class TestInformation:
    @pytest.mark.parametrize("original", [False, True])
    def test_words_of_a_caption_see_no_later_ones_but_in_the_original(self, original):
        model, batch = aligner(original_causal_mask=original), inputs()
        changed = {**batch, "input_ids": batch["input_ids"].clone()}
        changed["input_ids"][:, 3:] = 20
        before, after = (
            model.get_multimodal_features(**texts, attention_mode="multimodal_causal") for texts in (batch, changed)
        )
        words = (before.text_hidden_state - after.text_hidden_state).abs()
        queries = (before.query_hidden_state - after.query_hidden_state).abs()
        assert (words[:, :3].max() > 1e-2) == (queries.max() > 1e-2) == original
        assert words[:, 3].max() > 1e-2
        if not original:
            assert max(words[:, :3].max(), queries.max()) < 1e-5

    def test_words_of_a_caption_see_the_image(self):
        model, batch = aligner(), inputs()
        others = {**batch, "pixel_values": batch["pixel_values"].roll(1, dims=0)}
        before, after = (
            model.get_multimodal_features(**pairs, attention_mode="multimodal_causal") for pairs in (batch, others)
        )
        assert ((before.text_hidden_state - after.text_hidden_state).abs().amax(dim=2) > 1e-3).all()

    def test_each_side_alone_is_the_unimodal_mode(self):
        model, batch = aligner(), inputs()
        together = model.get_multimodal_features(**batch, attention_mode="unimodal")
        image = model.get_image_features(batch["pixel_values"])
        text = model.get_text_features(batch["input_ids"], batch["attention_mask"])
        attended = batch["attention_mask"].bool()
        torch.testing.assert_close(together.query_hidden_state, image.last_hidden_state)
        torch.testing.assert_close(together.query_pooled, image.pooler_output)
        torch.testing.assert_close(together.text_hidden_state[attended], text.last_hidden_state[attended])
        torch.testing.assert_close(together.text_pooled, text.pooler_output)

    def test_hidden_states_of_a_text(self):
        model, batch = aligner(), inputs()
        text = model.get_text_features(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
        assert [states.shape for states in text.hidden_states] == [text.last_hidden_state.shape] * 5
        assert torch.equal(text.hidden_states[-1], text.last_hidden_state)


class TestEmbeddings:
    def test_are_unit_vectors_of_both_sides_in_float32(self):
        model, batch = aligner().to(torch.bfloat16), inputs()
        batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)
        outputs = model(**batch)
        assert outputs.image_embeds.dtype == outputs.text_embeds.dtype == torch.float32
        torch.testing.assert_close(outputs.image_embeds.norm(dim=-1), torch.ones(3))
        image = model.get_image_features(batch["pixel_values"]).pooler_output.float()
        torch.testing.assert_close(outputs.image_embeds, torch.nn.functional.normalize(image, dim=-1))

    def test_logits_are_cosines_divided_by_the_temperature(self):
        outputs = aligner(temperature=0.2)(**inputs())
        torch.testing.assert_close(outputs.logits_per_image, outputs.image_embeds @ outputs.text_embeds.T / 0.2)
        assert torch.equal(outputs.logits_per_text, outputs.logits_per_image.T)

    def test_images_and_texts_may_differ_in_number_outside_training_only(self):
        model, batch = aligner(**ALL_LOSSES), inputs()
        batch["pixel_values"] = batch["pixel_values"][:2]
        outputs = model(**batch)
        assert outputs.loss is None
        assert outputs.logits_per_image.shape == (2, 3)
        with pytest.raises(
            ValueError, match=r"in training, but got 2 images and 3 texts\. Pass one text for each image"
        ):
            model.train()(**batch)
        assert model(**batch, return_loss=False).loss is None

    def test_vision_features_stand_for_pixels(self):
        model, batch = aligner(**ALL_LOSSES), inputs()
        tokens = as_tokens(model, batch)
        torch.testing.assert_close(model(**tokens).to_tuple(), model(**batch).to_tuple())
        image = model.get_image_features(vision_features=tokens["vision_features"])
        torch.testing.assert_close(image.pooler_output, model.get_image_features(batch["pixel_values"]).pooler_output)
        half = model.to(torch.bfloat16)(**tokens)  # cached tokens are float32
        assert half.loss.isfinite()

    @pytest.mark.parametrize("temperature", [0.07, 0.5])
    def test_a_learned_temperature_starts_where_it_is_told(self, temperature, tmp_path):
        aligner(temperature=temperature, learn_temperature=True).save_pretrained(tmp_path)
        model = AutoModel.from_pretrained(tmp_path)
        assert model.logit_scale.exp().item() == pytest.approx(1 / temperature)


class TestLosses:
    def test_the_sum_is_weighted(self):
        weights = {"contrastive": 0.5, "matching": 2.0, "captioning": 3.0}
        outputs = aligner(**{f"{name}_loss_weight": weight for name, weight in weights.items()})(**inputs())
        expected = sum(weight * outputs[f"{name}_loss"] for name, weight in weights.items())
        torch.testing.assert_close(outputs.loss, expected)

    def test_those_without_weight_are_not_computed(self):
        outputs = aligner()(**inputs())
        assert outputs.keys() >= {"loss", "contrastive_loss"}
        assert outputs.matching_loss is outputs.captioning_loss is None
        torch.testing.assert_close(outputs.loss, outputs.contrastive_loss)
        assert aligner(contrastive_loss_weight=0, matching_loss_weight=1)(**inputs()).contrastive_loss is None

    def test_contrastive(self):
        model, groups = aligner(), torch.tensor([4, 4, 1])
        outputs = model(**inputs(), group_ids=groups)
        expected = info_nce(outputs.image_embeds, outputs.text_embeds, logit_scale=1 / 0.07, group_ids=groups)
        torch.testing.assert_close(outputs.contrastive_loss, expected)
        assert model(**inputs()).contrastive_loss != expected

    @pytest.mark.parametrize("groups", [None, torch.tensor([4, 4, 1]), torch.tensor([4, 4, 4])])
    def test_matching_reads_true_pairs_and_the_most_similar_wrong_ones(self, groups):
        model, batch = aligner(**ALL_LOSSES), inputs()
        outputs = model(**batch, group_ids=groups)
        pairs = matching_pairs(outputs.logits_per_image, groups, draw=False)
        batch = as_tokens(model, batch)
        losses = []
        for image, text, target, weight in zip(*(part.tolist() for part in pairs), strict=True):
            pair = {
                "vision_features": batch["vision_features"][[image]],
                "input_ids": batch["input_ids"][[text]],
                "attention_mask": batch["attention_mask"][[text]],
            }
            logit = model.matching_head(model.get_multimodal_features(**pair).query_hidden_state)
            if weight:
                losses.append(binary_cross_entropy_with_logits(logit, torch.tensor([target])))
        assert len(losses) == {None: 9, 1: 9, 4: 3}[None if groups is None else groups[2].item()]
        torch.testing.assert_close(outputs.matching_loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)

    def test_matching_draws_its_negatives_in_training_only(self):
        model, batch = aligner(**ALL_LOSSES, temperature=100.0), inputs()
        assert len({model(**batch).matching_loss.item() for _ in range(5)}) == 1
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        assert len({round(model(**batch).matching_loss.item(), 4) for _ in range(20)}) > 1

    def test_captioning_is_the_mean_over_all_words_but_the_first(self):
        model, batch = aligner(**ALL_LOSSES), inputs()
        expected = model(**batch).captioning_loss
        batch, losses = as_tokens(model, batch), []
        head, table = model.captioning_head, model.get_input_embeddings().weight
        for tokens, ids in rows(batch):
            states, _ = PlainForward(model, 2)(tokens, ids, "multimodal_causal")
            logits = head.norm(torch.nn.functional.gelu(head.dense(states))) @ table.T
            losses += [cross_entropy(logits[place], ids[place + 1]) for place in range(len(ids) - 1)]
        assert len(losses) == sum(len(caption.split()) - 1 for caption in tiny.SENTENCES)
        torch.testing.assert_close(expected, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)

    def test_captioning_is_the_log_of_the_vocabulary_where_nothing_is_known(self):
        model = aligner(**ALL_LOSSES)
        torch.nn.init.zeros_(model.captioning_head.norm.weight)
        torch.nn.init.zeros_(model.captioning_head.norm.bias)
        assert model(**inputs()).captioning_loss.item() == pytest.approx(math.log(99))

    def test_captions_of_a_single_token_predict_nothing(self):
        model, batch = aligner(**ALL_LOSSES), inputs()
        short = {**batch, "input_ids": batch["input_ids"][:, :1], "attention_mask": batch["attention_mask"][:, :1]}
        outputs = model.train()(**short)
        assert outputs.captioning_loss.item() == 0
        assert outputs.loss.isfinite()

    def test_a_batch_of_one_image_can_be_trained_on(self):
        model = aligner(**ALL_LOSSES).train()
        loss = model(**{name: value[:1] for name, value in inputs().items()}).loss
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_under_autocast(self, attention):
        model, batch = aligner(**ALL_LOSSES, attn_implementation=attention), on_the_left(inputs())
        expected = model(**batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(**batch)
        outputs.loss.backward()
        assert outputs.loss.dtype == outputs.logits_per_image.dtype == torch.float32
        torch.testing.assert_close(outputs.captioning_loss, expected.captioning_loss, rtol=0.1, atol=0.1)

    def test_all_three_can_be_learned(self):
        model, batch = aligner(**ALL_LOSSES), inputs()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        before = model.eval()(**batch)
        for _ in range(40):
            optimizer.zero_grad()
            model.train()(**batch).loss.backward()
            optimizer.step()
        after = model.eval()(**batch)
        for name in ("contrastive_loss", "matching_loss", "captioning_loss"):
            assert after[name] < 0.7 * before[name], name

    def test_resized_token_embeddings_are_the_captioning_heads_too(self):
        model = aligner(**ALL_LOSSES)
        model.resize_token_embeddings(120)
        batch = inputs()
        batch["input_ids"][0, 1] = 119
        assert model.config.text_config.vocab_size == 120
        assert model(**batch).loss.isfinite()


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pixel_values": None}, "the images either as `pixel_values` or as `vision_features`"),
            ({"vision_features": torch.rand(3, 4, 16)}, "the images either as `pixel_values` or as `vision_features`"),
            ({"input_ids": None}, "Pass the texts as `input_ids`"),
            ({"input_ids": torch.ones(3, 65, dtype=torch.long)}, "must have at most 64 tokens, .* but got 65"),
        ],
    )
    def test_each_side_is_given_once(self, change, message):
        batch = {**inputs(), **change}
        if batch["input_ids"] is not None and "input_ids" in change:
            del batch["attention_mask"]
        with pytest.raises(ValueError, match=message):
            aligner()(**batch)

    @pytest.mark.parametrize("shape", [(3, 4, 15), (3, 16), (3, 3, 32, 32)])
    def test_tokens_of_another_vision_tower_are_refused(self, shape):
        batch = {**inputs(), "pixel_values": None, "vision_features": torch.rand(shape)}
        message = re.escape(f"`vision_features` must have the shape (images, tokens, 16), but got {shape}")
        with pytest.raises(ValueError, match=message):
            aligner()(**batch)

    def test_tokens_would_bypass_a_vision_tower_in_training(self):
        model = aligner(freeze_vision=False)
        batch = as_tokens(model, inputs())
        assert model(**batch).loss.isfinite()
        with pytest.raises(ValueError, match="`vision_features` cannot be used while the vision tower is trained"):
            model.train()(**batch)

    def test_an_unknown_attention_mode_is_refused(self):
        with pytest.raises(
            ValueError, match=r"`attention_mode` must be one of .* but got 'multi_modal'. Did you mean 'multimodal'"
        ):
            aligner().get_multimodal_features(**inputs(), attention_mode="multi_modal")

    def test_images_and_texts_that_differ_in_number_are_not_read_together(self):
        batch = inputs()
        batch["pixel_values"] = batch["pixel_values"][:2]
        with pytest.raises(ValueError, match=r"2 images and 3 texts\. Pass one image for each text"):
            aligner().get_multimodal_features(**batch)

    @pytest.mark.parametrize(("typo", "right"), [("group_id", "group_ids"), ("pixel_value", "pixel_values")])
    def test_a_misspelt_argument_is_refused(self, typo, right):
        with pytest.raises(TypeError, match=f"no argument '{typo}'. Did you mean '{right}'"):
            aligner()(**inputs(), **{typo: torch.zeros(3)})


def test_the_vision_tower_is_the_image_encoder():
    model = aligner()
    assert model.get_encoder("image") is model.vision_tower
