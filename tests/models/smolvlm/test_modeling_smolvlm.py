"""What is particular to SmolVLM; what all models share is in test_contract.py."""

import pytest
import torch
from tests import tiny
from tests.models.smolvlm.large import IMAGE, chat_model, language_model_logits
from torch.nn.functional import cross_entropy

from vlmkit import SmolVLM
from vlmkit.compat.cache import CACHE_NAME
from vlmkit.modules.precomputed_vision import PrecomputedVisionConfig


@pytest.fixture(params=["llama", "gpt2", "gpt_neo"])
def model(request) -> SmolVLM:
    return chat_model(request.param)


def inputs(labels: bool = False) -> dict[str, torch.Tensor]:
    """Three conversations with one, two and no images, padded on the right."""
    batch = tiny.smolvlm_inputs()
    return batch if labels else {name: value for name, value in batch.items() if name != "labels"}


def padded_on_the_left(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    shifts = (batch["attention_mask"] == 0).sum(dim=1).tolist()
    rolled = {}
    for name in {"input_ids", "attention_mask", "labels"} & batch.keys():
        rolled[name] = torch.stack([row.roll(shift) for row, shift in zip(batch[name], shifts, strict=True)])
    return {**batch, **rolled}


class TestMerging:
    def test_logits_are_those_of_the_language_model_with_images_as_embeddings(self, model):
        batch = inputs()
        images, _ = model.model.connector(model.model.vision_tower(batch["pixel_values"]).last_hidden_state)
        embeds = model.model.language_model.get_input_embeddings()(batch["input_ids"]).clone()
        embeds[0, 3:6], embeds[1, 3:6], embeds[1, 20:23] = images
        expected = language_model_logits(model, inputs_embeds=embeds, attention_mask=batch["attention_mask"])
        outputs, attended = model(**batch), batch["attention_mask"] == 1
        assert expected.std() > 0.3
        torch.testing.assert_close(outputs.logits[attended], expected[attended], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(outputs.image_hidden_states, images)

    def test_a_text_without_images_gives_the_logits_of_the_language_model(self, model):
        ids = torch.randint(3, 30, (2, 9))
        outputs = model(input_ids=ids)
        torch.testing.assert_close(outputs.logits, language_model_logits(model, input_ids=ids))
        assert outputs.image_hidden_states is None

    def test_an_image_changes_its_own_text_from_its_placeholder_on(self, model):
        batch = inputs()
        before = model(**batch).logits
        for image, row, column in ((0, 0, 3), (1, 1, 3), (2, 1, 20)):
            changed = {**batch, "pixel_values": batch["pixel_values"].clone()}
            changed["pixel_values"][image] = batch["pixel_values"][image].flip(-1)
            difference = (model(**changed).logits - before).abs().amax(dim=2)
            assert (difference[row, column:] > 1e-4).all()
            assert difference[row, :column].max() < 1e-4
            assert difference[[other for other in range(3) if other != row]].max() < 1e-4

    def test_padding_may_be_on_either_side(self, model):
        """In training it is on the right, in generation on the left."""
        right = inputs()
        left = padded_on_the_left(right)
        assert not torch.equal(left["input_ids"], right["input_ids"])
        on_the_right = model(**right).logits[right["attention_mask"] == 1]
        on_the_left = model(**left).logits[left["attention_mask"] == 1]
        torch.testing.assert_close(on_the_left, on_the_right, rtol=1e-4, atol=1e-4)

    def test_each_text_equals_the_one_alone(self, model):
        batch, images = inputs(), [[0], [1, 2], []]
        logits = model(**batch).logits
        for row, own in enumerate(images):
            alone = {name: batch[name][row : row + 1] for name in ("input_ids", "attention_mask")}
            if own:
                alone["pixel_values"] = batch["pixel_values"][own]
            torch.testing.assert_close(model(**alone).logits[0], logits[row], rtol=1e-4, atol=1e-4)


class TestInputs:
    def test_vision_features_replace_pixels(self, model):
        batch = inputs(labels=True)
        expected = model(**batch)
        tokens = model.model.vision_tower(batch.pop("pixel_values")).last_hidden_state
        outputs = model(**batch, vision_features=tokens)
        torch.testing.assert_close(outputs.logits, expected.logits)
        torch.testing.assert_close(outputs.loss, expected.loss)
        half = model(**batch, vision_features=tokens.half())  # as a feature cache may hold them
        torch.testing.assert_close(half.loss, expected.loss, rtol=0.05, atol=0.05)

    def test_encoded_images_replace_pixels(self, model):
        batch = inputs()
        expected = model(**batch).logits
        features = model.get_image_features(batch.pop("pixel_values"))
        assert features.last_hidden_state.shape == (3, 5, 16)
        assert features.pooler_output.shape == (3, 3, 16)
        torch.testing.assert_close(model(**batch, mm_encoder_outputs={"image": features}).logits, expected)

    def test_embeddings_replace_token_ids(self, model):
        batch = inputs()
        expected = model(**batch).logits
        embeds = model.get_input_embeddings()(batch.pop("input_ids"))
        torch.testing.assert_close(model(**batch, inputs_embeds=embeds).logits, expected)

    def test_no_mask_means_no_padding(self, model):
        batch = {name: value[1:2] for name, value in inputs().items()}  # the longest
        batch["pixel_values"] = inputs()["pixel_values"][1:]
        assert batch["attention_mask"].all()
        expected = model(**batch).logits
        del batch["attention_mask"]
        torch.testing.assert_close(model(**batch).logits, expected)

    @pytest.mark.parametrize("kept", [1, 3, torch.tensor([0, 2])])
    def test_logits_of_some_positions(self, model, kept):
        batch = inputs()
        chosen = slice(-kept, None) if isinstance(kept, int) else kept
        torch.testing.assert_close(model(**batch, logits_to_keep=kept).logits, model(**batch).logits[:, chosen])

    @pytest.mark.parametrize("cut", [3, 6, 19, 24])
    def test_a_cache_continues_a_text_between_its_images(self, model, cut):
        batch = {name: value[1:2] for name, value in inputs().items()}
        pixels, ids, mask = inputs()["pixel_values"][1:], batch["input_ids"], batch["attention_mask"]
        expected = model(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
        num_before = int((ids[0, :cut] == tiny.IMAGE_TOKEN_ID).sum()) // 3
        past = None
        for part, images in ((slice(0, cut), pixels[:num_before]), (slice(cut, None), pixels[num_before:])):
            own = {"pixel_values": images} if len(images) else {}
            outputs = model(
                input_ids=ids[:, part], attention_mask=mask[:, : part.stop], cache=past, use_cache=True, **own
            )
            past = outputs[CACHE_NAME]
            torch.testing.assert_close(outputs.logits, expected[:, part], rtol=1e-4, atol=1e-4)

    def test_trainer_can_switch_the_cache_off(self, model):
        assert model(**inputs()).get(CACHE_NAME) is not None
        model.config.use_cache = False  # as Trainer does, on the whole only
        assert model(**inputs()).get(CACHE_NAME) is None

    def test_tuples_in_place_of_outputs(self, model):
        batch = inputs(labels=True)
        expected = model(**batch)
        model.config.return_dict = False
        loss, logits, *_ = model(**batch)
        torch.testing.assert_close((loss, logits), (expected.loss, expected.logits))
        assert isinstance(model.get_image_features(batch["pixel_values"]), tuple)

    def test_a_vision_tower_of_another_precision(self, model):
        batch = inputs()
        expected = model(**batch).logits
        model.model.vision_tower.to(torch.bfloat16)  # as after loading a frozen tower in less memory
        batch["pixel_values"] = batch["pixel_values"].bfloat16()
        logits = model(**batch).logits
        assert logits.dtype == torch.float32
        assert (logits - expected).abs().mean() < 0.1

    def test_of_a_model_without_a_vision_tower(self):
        model, batch = chat_model(vision_config=PrecomputedVisionConfig(hidden_size=20)), inputs(labels=True)
        del batch["pixel_values"]
        tokens = torch.randn(3, 7, 20)
        model.train()(**batch, vision_features=tokens).loss.backward()
        assert model.model.connector.vision_projection.weight.grad.abs().sum() > 0
        with pytest.raises(ValueError, match=r"This model has no vision tower and cannot encode `pixel_values`"):
            model(**inputs())


class TestLoss:
    def test_is_the_mean_over_what_the_assistant_says_and_the_ends_of_its_turns(self, model):
        batch = inputs(labels=True)
        outputs = model(**batch)
        tokenizer = tiny.chat_tokenizer()
        # The answers begin at these columns; the end of a turn is the padding, too.
        said = [(0, 15, "a small red circle"), (1, 13, "a cat"), (1, 30, "the dog runs on grass"), (2, 18, "a tree")]
        losses = []
        for row, start, answer in said:
            words = [*tokenizer.convert_tokens_to_ids(answer.split()), tiny.TURN_END]
            losses += [
                cross_entropy(outputs.logits[row, start - 1 + step], torch.tensor(word))
                for step, word in enumerate(words)
            ]
        assert len(losses) == 5 + 3 + 6 + 3
        torch.testing.assert_close(outputs.loss, torch.stack(losses).mean())

    def test_in_training_equals_that_of_evaluation_gradients_included(self, model):
        batch = inputs(labels=True)
        expected = model.eval()(**batch)
        expected.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        model.zero_grad()
        outputs = model.train()(**batch)
        outputs.loss.backward()
        assert outputs.logits is None
        torch.testing.assert_close(outputs.loss, expected.loss)
        assert sum(gradient.abs().sum() > 0 for gradient in gradients.values()) > 30
        for name, gradient in gradients.items():
            torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-5, msg=name)

    def test_in_training_passes_labelled_positions_only_through_the_head(self, model):
        batch, seen = inputs(labels=True), []
        model.get_output_embeddings().register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
        model.train()(**batch)
        assert seen == [(17, 16)]
        model.eval()(**batch)
        assert seen[1:] == [(3, 37, 16)]

    @pytest.mark.parametrize("training", [True, False])
    def test_is_divided_by_the_items_of_all_accumulated_batches(self, model, training):
        batch = inputs(labels=True)
        model.train(training)
        num_items = (batch["labels"] != -100).sum()
        assert num_items == 17
        mean, part = model(**batch).loss, model(**batch, num_items_in_batch=num_items * 4).loss
        torch.testing.assert_close(part, mean / 4)

    def test_of_accumulated_batches_is_that_of_the_whole(self, model):
        """Their numbers of tokens differ, so a mean of means would be another one."""
        batch = inputs(labels=True)
        model.train()
        losses = []
        for row, images in enumerate(([0], [1, 2], [])):
            own = {name: batch[name][row : row + 1] for name in ("input_ids", "attention_mask", "labels")}
            if images:
                own["pixel_values"] = batch["pixel_values"][images]
            losses.append(model(**own, num_items_in_batch=17).loss)
        torch.testing.assert_close(sum(losses), model(**batch).loss)

    @pytest.mark.parametrize("training", [True, False])
    def test_does_not_depend_on_the_padding(self, model, training):
        batch = inputs(labels=True)
        model.train(training)
        expected = model(**batch).loss
        torch.testing.assert_close(model(**padded_on_the_left(batch)).loss, expected, rtol=1e-4, atol=1e-5)
        for name, filler in (("input_ids", tiny.TURN_END), ("attention_mask", 0), ("labels", -100)):
            batch[name] = torch.cat([batch[name], torch.full((3, 4), filler)], dim=1)
        torch.testing.assert_close(model(**batch).loss, expected)

    def test_of_texts_without_images(self, model):
        batch = {name: value[2:] for name, value in inputs(labels=True).items() if name != "pixel_values"}
        logits = language_model_logits(model, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        expected = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
        torch.testing.assert_close(model(**batch).loss, expected)
        torch.testing.assert_close(model.train()(**batch).loss, expected)

    def test_there_is_none_without_labels(self, model):
        assert model(**inputs()).loss is None
        assert model.train()(**inputs()).logits is not None


class TestOutputs:
    def test_attentions_and_hidden_states_are_the_language_models(self):
        model = chat_model(attn_implementation="eager")
        outputs = model(**inputs(), output_attentions=True, output_hidden_states=True)
        assert [weights.shape for weights in outputs.attentions] == [(3, 4, 37, 37)] * 2
        assert [states.shape for states in outputs.hidden_states] == [(3, 37, 16)] * 3
        torch.testing.assert_close(outputs.hidden_states[0][0, 3:6], outputs.image_hidden_states[0])

    def test_queries_start_small_and_different(self):
        model = SmolVLM(tiny.smolvlm_config(num_query_tokens=500))
        assert model.model.connector.qformer.query_tokens.shape == (1, 500, 16)
        assert model.model.connector.qformer.query_tokens.std().item() == pytest.approx(0.02, rel=0.05)

    def test_blocks_with_a_residual_stay_on_one_device(self, model):
        assert {"QFormerLayer", *model.model.language_model._no_split_modules} <= set(model._no_split_modules)

    @tiny.NEEDS_FULL_GRAPHS
    def test_a_compiled_forward_pass_gives_the_same(self):
        text = tiny.llama_config(initializer_range=0.3, num_hidden_layers=1)
        vision = tiny.vision_config(initializer_range=0.5, num_hidden_layers=1)
        model = chat_model(text_config=text, vision_config=vision, qformer_config=tiny.distilbert_config(n_layers=2))
        compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
        for batch in (inputs(labels=True), {"input_ids": torch.tensor([[1, 7, 8]])}):
            expected = model(**batch, use_cache=False)
            outputs = compiled(**batch, use_cache=False)
            torch.testing.assert_close(outputs.logits, expected.logits)
            torch.testing.assert_close(outputs.loss, expected.loss)

    def test_an_exported_forward_pass_gives_the_same(self):
        model = chat_model()
        batch = {**inputs(), "use_cache": False, "return_dict": False}
        exported = torch.export.export(model, (), batch, strict=False)
        torch.testing.assert_close(exported.module()(**batch)[0], model(**batch)[0])


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"pixel_values": None},
                "The texts must have 0 image tokens for the 0 images, but got 9. Pass one image for each",
            ),
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
            ({"input_ids": None}, "Pass the texts either as `input_ids` or as `inputs_embeds`"),
            ({"inputs_embeds": torch.rand(3, 37, 16)}, "Pass the texts either as `input_ids` or as `inputs_embeds`"),
        ],
    )
    def test_images_and_texts_are_given_once_and_fit(self, change, message):
        with pytest.raises(ValueError, match=message):
            chat_model()(**{**inputs(), **change})

    def test_an_image_cut_by_truncation_is_rejected(self):
        batch = {name: value[:, :22] for name, value in inputs().items() if name != "pixel_values"}
        message = "must have 9 image tokens for the 3 images, but got 8"
        with pytest.raises(ValueError, match=message):
            chat_model()(**batch, pixel_values=inputs()["pixel_values"])

    def test_a_cache_that_ends_within_an_image_is_rejected(self):
        model, ids = chat_model(), torch.tensor([[1, 5, *IMAGE, 7, 8]])
        pixels = inputs()["pixel_values"][:1]
        past = model(input_ids=ids, pixel_values=pixels, use_cache=True)[CACHE_NAME]
        past.crop(-4)
        with pytest.raises(ValueError, match="must have 3 image tokens for the 1 images, but got 2"):
            model(input_ids=ids[:, 3:], pixel_values=pixels, cache=past)

    @pytest.mark.parametrize("shape", [(3, 5, 15), (3, 16), (3, 3, 32, 32)])
    def test_tokens_of_another_vision_tower_are_rejected(self, shape):
        message = rf"must have the shape \(images, tokens, 16\), but got \({', '.join(map(str, shape))}\)"
        with pytest.raises(ValueError, match=message):
            chat_model()(**{**inputs(), "pixel_values": None}, vision_features=torch.rand(shape))

    def test_tokens_would_bypass_a_vision_tower_that_trains(self):
        model = chat_model(freeze_vision=False)
        batch = {**inputs(), "pixel_values": None, "vision_features": torch.rand(3, 5, 16)}
        assert model(**batch).logits.isfinite().all()
        with pytest.raises(ValueError, match=r"cannot be used while the vision tower is trained\..*freeze_vision=True"):
            model.train()(**batch)

    @pytest.mark.parametrize(
        ("typo", "right"), [("pixel_value", "pixel_values"), ("vision_feature", "vision_features"), ("label", "labels")]
    )
    def test_a_misspelt_argument_is_rejected(self, typo, right):
        with pytest.raises(TypeError, match=f"SmolVLM.forward has no argument '{typo}'. Did you mean '{right}"):
            chat_model()(**inputs(), **{typo: torch.zeros(3)})
