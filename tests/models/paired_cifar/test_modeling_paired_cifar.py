"""What is particular to PairedCifarAligner; what all models share is in test_contract.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests import tiny
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    TimmWrapperConfig,
)

from vlmkit import PairedCifarAligner
from vlmkit.losses import swapped_margin
from vlmkit.models.paired_cifar.caption_bank import embed_captions, normalize_embeds

SMALL_RESNET = TimmWrapperConfig(
    architecture="resnet10t", model_args={"channels": (8, 8, 16, 16), "stem_width": 8, "zero_init_last": False}
)
IDS = torch.tensor([1, 5, 8])  # (dog, cat), (cat, red star) and twice a red star
MIXED_IDS = torch.tensor([[1, 5, 8, 0], [1, 1, 3, 3], [8, 7, 6, 2]])
MIXED_WEIGHTS = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.5, 0.0]])


def make_model(bank: bool = True, **config) -> PairedCifarAligner:
    torch.manual_seed(0)
    model = PairedCifarAligner(tiny.paired_cifar_config(**config)).eval()
    if bank:
        tiny.build_caption_bank(model)
    return model


def with_large_weights(**config) -> PairedCifarAligner:
    """Two images give different vectors, which they hardly do in a new model."""
    model = make_model(**config)
    with torch.no_grad():
        for parameter in model.vision_tower.parameters():
            parameter.normal_(std=0.5)
    return model


def pixels(size: int = 3, height: int = 16) -> torch.Tensor:
    return torch.rand(size, 3, height, 2 * height, generator=torch.Generator().manual_seed(1))


def clip_sizes() -> dict:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return {**sizes, "vocab_size": 99, "eos_token_id": 1, "projection_dim": 12, "initializer_range": 0.5}


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """CLIP reads its embedding off the end-of-text token."""
    tokenizer = tiny.tokenizer(pad_token="<pad>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer


class TestInitialization:
    def test_the_vits_weights_are_xavier_uniform(self, tmp_path):
        model = make_model(class_loss_weight=1.0)
        layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
        assert len(layers) == 1 + 2 * 6 + 1 + 2  # patches, two layers, projection, classifiers
        for layer in layers:
            area = math.prod(layer.kernel_size) if isinstance(layer, torch.nn.Conv2d) else 1
            bound = math.sqrt(6 / (area * sum(layer.weight.shape[:2])))
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
            assert not layer.bias.any()

        model.save_pretrained(tmp_path)
        state = AutoModel.from_pretrained(tmp_path).state_dict()
        torch.testing.assert_close(state, model.state_dict(), rtol=0, atol=0)

    def test_weights_that_are_loaded_are_not_drawn_anew(self, tmp_path):
        model = make_model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(9.0)
        model.save_pretrained(tmp_path)
        assert all((parameter == 9).all() for parameter in PairedCifarAligner.from_pretrained(tmp_path).parameters())

    def test_a_cnn_keeps_its_own_initialization(self):
        model = make_model(vision_config=SMALL_RESNET)
        convolution = next(m for m in model.vision_tower.modules() if isinstance(m, torch.nn.Conv2d))
        bound = math.sqrt(6 / (9 * sum(convolution.weight.shape[:2])))
        assert convolution.weight.abs().max() > bound  # He's normals are unbounded


class TestCaptionBank:
    def test_captions_are_in_the_order_of_their_ids(self):
        captions = make_model(bank=False).captions
        assert len(captions) == 9
        assert captions[3 * 0 + 1] == "the photo on the left is dog and the photo on the right is cat"
        assert captions[3 * 2 + 0] == "the photo on the left is red star and the photo on the right is dog"

    @pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
    def test_pooled_states_of_a_sentence_encoder(self, pooling):
        model, encoder, tokenizer = make_model(bank=False), tiny.text_encoder(), tiny.tokenizer(pad_token="<pad>")
        model.build_caption_bank(encoder, tokenizer, pooling=pooling, batch_size=4)
        for row, caption in enumerate(model.captions):  # one by one, so without padding
            with torch.no_grad():
                [states] = encoder(**tokenizer(caption, return_tensors="pt")).last_hidden_state
            pooled = {"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[pooling]
            torch.testing.assert_close(model.caption_embeds[row], pooled / pooled.norm())

    @pytest.mark.parametrize("kind", [CLIPTextModelWithProjection, CLIPModel])
    def test_projected_embeddings_of_clip(self, kind):
        model, tokenizer = make_model(bank=False), clip_tokenizer()
        if kind is CLIPModel:
            vision = {**tiny.vision_config().to_diff_dict(), "model_type": "clip_vision_model"}
            encoder = CLIPModel(CLIPConfig(text_config=clip_sizes(), vision_config=vision, projection_dim=12)).eval()
        else:
            encoder = CLIPTextModelWithProjection(CLIPTextConfig(**clip_sizes())).eval()
        model.build_caption_bank(encoder, tokenizer, batch_size=4)
        for row, caption in enumerate(model.captions):
            with torch.no_grad():
                states = encoder.text_model(**tokenizer(caption, return_tensors="pt")).last_hidden_state
                embed = encoder.text_projection(states[0, -1])
            torch.testing.assert_close(model.caption_embeds[row], embed / embed.norm(), rtol=1e-4, atol=1e-5)
        assert kind.__name__ in model.config.text_encoder

    def test_the_encoder_works_in_evaluation_mode_and_keeps_its_mode(self):
        encoder = tiny.text_encoder()
        encoder.config.hidden_dropout_prob = 0.5
        encoder.train()
        model, expected = make_model(bank=False), make_model()
        model.build_caption_bank(encoder, tiny.tokenizer(pad_token="<pad>"))
        assert encoder.training
        assert torch.equal(model.caption_embeds, expected.caption_embeds)

    def test_centred_captions(self):
        encoder, tokenizer = tiny.text_encoder(), tiny.tokenizer(pad_token="<pad>")
        model = make_model(caption_normalization="center")
        raw = F.normalize(embed_captions(encoder, tokenizer, captions=model.captions), dim=1)
        torch.testing.assert_close(model.caption_embeds, F.normalize(raw - raw.mean(dim=0), dim=1))

    def test_whitening_makes_all_directions_equally_strong(self):
        """Up to the scale of each row, it gives the principal components their own directions and one variance."""
        raw = torch.randn(500, 6) @ torch.diag(torch.tensor([1.0, 0.8, 0.6, 0.5, 0.4, 0.3])) + 2.0
        unit = F.normalize(raw, dim=1)
        centred = (unit - unit.mean(dim=0)).double()
        left, _, right = torch.linalg.svd(centred, full_matrices=False)
        whitened = left @ right * math.sqrt(500)
        torch.testing.assert_close(whitened.T @ whitened / 500, torch.eye(6).double())
        actual = normalize_embeds(raw, "whiten")
        torch.testing.assert_close(actual.norm(dim=1), torch.ones(500))
        assert F.cosine_similarity(actual, whitened.float()).min() > 0.99

    def test_whitening_does_not_blow_up_rounding(self):
        raw = torch.randn(50, 6) * torch.tensor([1.0, 1.0, 1.0, 1e-6, 1e-7, 0.0])
        whitened = normalize_embeds(raw, "whiten")
        assert whitened.isfinite().all()
        assert whitened[:, 3:].abs().max() < 1e-3

    def test_a_caption_and_its_swap_are_told_apart_after_normalizing(self):
        cosines = {}
        for how in ("none", "center", "whiten"):
            bank = make_model(caption_normalization=how).caption_embeds
            cosines[how] = [
                (bank[3 * left + right] @ bank[3 * right + left]).item() for left, right in ((0, 1), (1, 2))
            ]
            torch.testing.assert_close(bank.norm(dim=1), torch.ones(9))
        for none, center, whiten in zip(*cosines.values(), strict=True):
            assert none > center + 0.01
            assert none > whiten + 0.1

    def test_an_encoder_of_another_width_is_refused_with_the_way_out(self):
        model = make_model(bank=False)
        message = "of width 12, .* but got 8 from BertModel. Build the model with `text_embed_dim=8`"
        with pytest.raises(ValueError, match=message):
            model.build_caption_bank(tiny.text_encoder(width=8), tiny.tokenizer(pad_token="<pad>"))
        assert model.config.text_encoder is None

    def test_without_a_bank_there_are_embeddings_only(self):
        model = make_model(bank=False)
        outputs = model(pixels())
        assert outputs.loss is None
        assert outputs.logits_per_image is None
        torch.testing.assert_close(outputs.image_embeds.norm(dim=1), torch.ones(3))
        message = r"must be built first\. Call `model.build_caption_bank\(text_model, tokenizer\)`"
        for use in (lambda: model(pixels(), IDS), lambda: model.predict_captions(pixels()), model.check_caption_bank):
            with pytest.raises(ValueError, match=message):
                use()

    def test_a_configuration_without_its_weights_has_no_bank(self):
        model = AutoModel.from_config(make_model().config)
        assert model.config.text_encoder is not None
        for use in (lambda: model(pixels()), lambda: model(pixels(), IDS), lambda: model.predict_captions(pixels())):
            with pytest.raises(ValueError, match=r"must be built first\. Call `model.build_caption_bank"):
                use()
        tiny.build_caption_bank(model)
        assert model(pixels(), IDS).loss.isfinite()

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("caption_template", "{a} and {b}"),
            ("class_names", ["dog", "cat", "star"]),
            ("class_names", ["cat", "dog", "red_star"]),
            ("caption_normalization", "whiten"),
            ("text_encoder", "another encoder"),
        ],
    )
    def test_loading_with_another_description_is_refused(self, field, value, tmp_path):
        make_model().save_pretrained(tmp_path)
        message = rf"The caption bank was built with another `{field}`\. Rebuild it with `model.build_caption_bank"
        for loading in (AutoModel, PairedCifarAligner):
            with pytest.raises(ValueError, match=message):
                loading.from_pretrained(tmp_path, **{field: value})

    def test_all_that_differs_is_named(self):
        model = make_model()
        model.config.caption_template, model.config.caption_normalization = "{a} and {b}", "center"
        with pytest.raises(ValueError, match=r"another `caption_template` and `caption_normalization`\. Rebuild"):
            model.predict_captions(pixels())
        tiny.build_caption_bank(model)
        assert model.predict_captions(pixels())[0][0].caption in model.captions

    def test_a_class_list_of_another_length_is_refused(self, tmp_path):
        make_model().save_pretrained(tmp_path)
        with pytest.raises(
            ValueError, match=r"`class_names` must match the caption bank in .*, which has another size"
        ):
            PairedCifarAligner.from_pretrained(tmp_path, class_names=["dog", "cat"])

    def test_captions_that_the_encoder_cannot_tell_apart_are_refused(self):
        model = PairedCifarAligner(tiny.paired_cifar_config(caption_template="{a} {b} zzz", class_names=["zz", "zzz"]))
        with pytest.raises(ValueError, match=r"'zz zz zzz' and 'zz zzz zzz' have the same one\. Shorten"):
            tiny.build_caption_bank(model)  # all of these words are unknown to it

    def test_another_encoder_or_pooling_is_refused(self):
        model, encoder = make_model(), tiny.text_encoder()
        model.check_caption_bank(encoder)
        with pytest.raises(ValueError, match=r"another text encoder \(BertModel, mean, \w{8}\)\. Rebuild"):
            model.check_caption_bank(encoder, pooling="cls")
        with torch.no_grad():
            encoder.embeddings.word_embeddings.weight[50, 3] += 1e-3
        with pytest.raises(ValueError, match=r"another text encoder \(BertModel, mean, \w{8}\)\. Rebuild"):
            model.check_caption_bank(encoder)

    def test_the_encoder_is_found_again_wherever_it_lies(self, tmp_path):
        model, tokenizer = make_model(bank=False), tiny.tokenizer(pad_token="<pad>")
        for place in ("here/encoder", "there/moved"):
            tiny.text_encoder().save_pretrained(tmp_path / place)
        model.build_caption_bank(
            AutoModel.from_pretrained(tmp_path / "here/encoder", add_pooling_layer=False), tokenizer
        )
        assert model.config.text_encoder.startswith("encoder, mean, ")
        model.check_caption_bank(AutoModel.from_pretrained(tmp_path / "there/moved", add_pooling_layer=False))

    def test_the_text_encoder_is_no_part_of_the_model(self):
        model = make_model()
        assert {name.partition(".")[0] for name in model.state_dict()} == {
            "vision_tower",
            "vision_projection",
            "caption_embeds",
            "caption_bank_fingerprints",
        }
        assert not any("Bert" in type(module).__name__ for module in model.modules())


class TestLosses:
    def test_in_batch_is_info_nce_without_pairs_of_the_same_caption(self):
        model, ids = with_large_weights(temperature=0.2), torch.tensor([1, 5, 1])
        outputs = model(pixels(), ids)
        similarity = outputs.image_embeds @ model.caption_embeds[ids].T / 0.2
        kept = [[0, 1], [0, 1, 2], [1, 2]]  # the first and the last are no negatives of each other
        by_image, by_caption = (
            sum(rows[i, kept[i]].logsumexp(dim=0) - rows[i, i] for i in range(3)) / 3
            for rows in (similarity, similarity.T)
        )
        torch.testing.assert_close(outputs.loss, (by_image + by_caption) / 2)
        assert model(pixels()[:2], torch.tensor([4, 4])).loss.item() == pytest.approx(0, abs=1e-6)

    def test_the_full_bank_is_a_softmax_over_all_captions(self):
        model = with_large_weights(loss="full_bank", temperature=0.2)
        outputs = model(pixels(), IDS)
        torch.testing.assert_close(outputs.logits_per_image, outputs.image_embeds @ model.caption_embeds.T / 0.2)
        torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits_per_image, IDS))

    def test_equal_captions_give_the_logarithm_of_their_number(self):
        model = make_model(loss="full_bank")
        for equal in (0.0, 0.3):
            model.caption_embeds.fill_(equal)
            assert model(pixels(), IDS).loss.item() == pytest.approx(math.log(9), rel=1e-5)

    @pytest.mark.parametrize("loss", ["in_batch", "full_bank"])
    @pytest.mark.parametrize("ids", [[0, 1, 9], [-1, 0, 1]])
    def test_ids_outside_the_bank_are_refused(self, loss, ids):
        with pytest.raises(
            ValueError, match=r"`caption_ids` must be rows of the caption bank, num_classes \* left \+ right"
        ):
            make_model(loss=loss)(pixels(), torch.tensor(ids))

    def test_the_loss_may_be_left_out(self):
        outputs = make_model()(pixels(), IDS, return_loss=False)
        assert outputs.loss is None
        assert outputs.logits_per_image.shape == (3, 9)

    def test_mixed_captions_weigh_the_single_losses(self):
        extras = {"label_smoothing": 0.1, "swap_loss_weight": 2.0, "swap_margin": 0.9, "class_loss_weight": 0.5}
        model, batch = with_large_weights(loss="full_bank", **extras), pixels()
        expected = sum(
            MIXED_WEIGHTS[row, k] * model(batch[row : row + 1], MIXED_IDS[row, k : k + 1]).loss / 3
            for row in range(3)
            for k in range(4)
        )
        torch.testing.assert_close(model(batch, MIXED_IDS, MIXED_WEIGHTS).loss, expected)

    def test_mixed_captions_are_refused_in_batch(self):
        with pytest.raises(ValueError, match=r"must have the shape \(B,\), .* but got \(3, 4\)\. Set .*'full_bank'"):
            make_model()(pixels(), MIXED_IDS, MIXED_WEIGHTS)

    def test_mixed_captions_need_weights(self):
        with pytest.raises(ValueError, match=r"with weights of the same shape, but got \(3, 4\) with weights None"):
            make_model(loss="full_bank")(pixels(), MIXED_IDS)

    def test_unit_vectors_and_loss_are_float32_in_a_half_precision_model(self):
        outputs = make_model().to(torch.bfloat16)(pixels().to(torch.bfloat16), IDS)
        assert outputs.image_embeds.dtype == outputs.logits_per_image.dtype == outputs.loss.dtype == torch.float32
        torch.testing.assert_close(outputs.image_embeds.norm(dim=1), torch.ones(3))


class TestExtras:
    @pytest.mark.parametrize("loss", ["in_batch", "full_bank"])
    def test_a_learned_temperature_is_trained(self, loss):
        fixed, model = (with_large_weights(loss=loss, learn_temperature=learn) for learn in (False, True))
        assert fixed.logit_scale is None
        outputs = model(pixels(), IDS)
        torch.testing.assert_close(outputs.loss, fixed(pixels(), IDS).loss)
        outputs.loss.backward()
        step = 1e-2
        losses = []
        with torch.no_grad():
            for change in (step, -2 * step):
                model.logit_scale += change
                losses.append(model(pixels(), IDS).loss.item())
            model.logit_scale += step
        assert model.logit_scale.grad.item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-2)

        before = model.logit_scale.item()
        torch.optim.SGD([model.logit_scale], lr=0.01).step()
        assert (model.logit_scale.item() - before) * model.logit_scale.grad.item() < 0
        with torch.no_grad():
            assert model(pixels(), IDS).loss < outputs.loss

    def test_a_learned_temperature_stays_above_its_limit(self):
        model = make_model(learn_temperature=True)
        with torch.no_grad():
            model.logit_scale.fill_(9.0)
        outputs = model(pixels(), IDS)
        torch.testing.assert_close(outputs.logits_per_image, 100 * outputs.image_embeds @ model.caption_embeds.T)
        outputs.loss.backward()
        assert model.logit_scale.grad.item() != 0  # it can come back

    def test_the_swap_loss_is_added_with_its_weight(self):
        plain, model = (with_large_weights(swap_loss_weight=w, swap_margin=0.3) for w in (0.0, 2.0))
        outputs = plain(pixels(), IDS)
        hinge = swapped_margin(
            outputs.image_embeds, plain.caption_embeds, caption_ids=IDS, swapped_ids=torch.tensor([3, 7, 8]), margin=0.3
        )
        assert hinge > 0.01
        torch.testing.assert_close(model(pixels(), IDS).loss, outputs.loss + 2 * hinge)

    def test_the_swap_loss_ends_at_its_margin_and_spares_pairs_of_one_class(self):
        plain, model = (with_large_weights(swap_loss_weight=w, swap_margin=1.5) for w in (0.0, 2.0))
        [embed] = plain(pixels(1)).image_embeds.detach()
        own, swapped, same = torch.tensor([1]), 3, torch.tensor([8])
        for sign, expected in (
            (1, 0.0),
            (-1, 1.5 + 2.0),
        ):  # the margin is met by a difference of 2, and missed by as much
            for each in (plain, model):
                each.caption_embeds[own], each.caption_embeds[swapped] = sign * embed, -sign * embed
            difference = model(pixels(1), own).loss - plain(pixels(1), own).loss
            assert difference.item() == pytest.approx(2 * expected, abs=1e-5)
        assert model(pixels(1), same).loss == plain(pixels(1), same).loss

    def test_the_swap_loss_pushes_the_swapped_caption_away(self):
        gaps = {}
        for weight in (0.0, 5.0):
            model = with_large_weights(swap_loss_weight=weight, swap_margin=0.5)
            optimizer = torch.optim.SGD(model.vision_projection.parameters(), lr=0.05)
            for _ in range(10):
                optimizer.zero_grad()
                model(pixels(), IDS).loss.backward()
                optimizer.step()
            embeds = model(pixels()).image_embeds[:2].detach()
            bank = model.caption_embeds
            gaps[weight] = (embeds * (bank[[1, 5]] - bank[[3, 7]])).sum().item()
        assert gaps[5.0] > gaps[0.0] + 0.03

    def test_label_smoothing_is_torchs(self):
        model = with_large_weights(loss="full_bank", label_smoothing=0.2)
        outputs = model(pixels(), IDS)
        expected = F.cross_entropy(outputs.logits_per_image, IDS, label_smoothing=0.2)
        torch.testing.assert_close(outputs.loss, expected)

    def test_the_class_loss_is_the_cross_entropy_of_left_and_right(self):
        plain, model = (with_large_weights(class_loss_weight=weight) for weight in (0.0, 0.5))
        assert not list(plain.classifiers)
        model.load_state_dict(plain.state_dict(), strict=False)
        pooled = model.vision_tower(pixels()).pooler_output
        left, right = (classifier(pooled) for classifier in model.classifiers)
        expected = F.cross_entropy(left, torch.tensor([0, 1, 2])) + F.cross_entropy(right, torch.tensor([1, 2, 2]))
        torch.testing.assert_close(model(pixels(), IDS).loss, plain(pixels(), IDS).loss + 0.5 * expected)

    def test_blind_classifiers_give_the_logarithm_of_the_classes(self):
        plain, model = (make_model(class_loss_weight=weight) for weight in (0.0, 0.5))
        model.load_state_dict(plain.state_dict(), strict=False)
        for classifier in model.classifiers:
            torch.nn.init.zeros_(classifier.weight)
        difference = model(pixels(), IDS).loss - plain(pixels(), IDS).loss
        assert difference.item() == pytest.approx(0.5 * 2 * math.log(3), rel=1e-4)


class TestEncoding:
    @pytest.mark.parametrize("backbone", ["vit", "cnn"])
    def test_swapping_the_images_swaps_their_vectors(self, backbone):
        vision = tiny.vision_config(image_size=16, patch_size=8) if backbone == "vit" else SMALL_RESNET
        height = 16 if backbone == "vit" else 32
        model = make_model(vision_input="halves", vision_config=vision, text_embed_dim=48)  # so without projection
        left, right = pixels(height=height).chunk(2, dim=-1)
        there, back = (model.get_image_features(torch.cat(pair, dim=-1)) for pair in ((left, right), (right, left)))
        one, other, product = there.pooler_output.split(16, dim=1)
        assert (one - other).abs().max() > 1e-3
        torch.testing.assert_close(product, one * other)
        torch.testing.assert_close(back.pooler_output, torch.cat([other, one, product], dim=1))
        tokens = there.last_hidden_state.shape[1]
        torch.testing.assert_close(back.last_hidden_state, there.last_hidden_state.roll(tokens // 2, dims=1))

    def test_a_pair_is_more_than_its_halves(self):
        model = with_large_weights()
        left, right = pixels().chunk(2, dim=-1)
        swapped = model(torch.cat([right, left], dim=-1)).image_embeds
        assert (model(pixels()).image_embeds - swapped).abs().max() > 0.01

    @pytest.mark.parametrize("vision_input", ["pair", "halves"])
    @pytest.mark.parametrize("shape", [(16, 31), (16, 16), (16, 64), (32, 16)])
    def test_what_is_no_pair_is_refused(self, vision_input, shape):
        model = make_model(vision_input=vision_input, vision_config=SMALL_RESNET)
        with pytest.raises(ValueError, match=rf"\(B, 3, H, 2H\), .* but got \(3, 3, {shape[0]}, {shape[1]}\)"):
            model(torch.rand(3, 3, *shape))

    def test_image_features(self):
        model = make_model()
        features = model.get_image_features(pixels(), output_hidden_states=True)
        assert features.last_hidden_state.shape == (3, 9, 16)
        assert features.pooler_output.shape == (3, 12)
        assert len(features.hidden_states) == 3
        torch.testing.assert_close(F.normalize(features.pooler_output), model(pixels()).image_embeds)
        tokens, pooled, *_ = model.get_image_features(pixels(), return_dict=False)
        assert torch.equal(pooled, features.pooler_output)
        assert torch.equal(tokens, features.last_hidden_state)

    def test_image_features_of_halves(self):
        vision = tiny.vision_config(image_size=16, patch_size=8)
        model = make_model(vision_input="halves", vision_config=vision)
        features = model.get_image_features(pixels(), output_hidden_states=True)
        assert features.last_hidden_state.shape == (3, 2 * 5, 16)
        assert features.pooler_output.shape == (3, 12)
        assert features.hidden_states[0].shape == (6, 5, 16)  # of the images, the left ones first

    @tiny.NEEDS_FULL_GRAPHS
    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"loss": "full_bank", "learn_temperature": True, "swap_loss_weight": 1.0, "class_loss_weight": 1.0},
            {"vision_input": "halves", "vision_config": SMALL_RESNET},
        ],
        ids=["report", "extras", "halves"],
    )
    def test_it_compiles_to_one_graph(self, config):
        torch._dynamo.reset()
        model = make_model(**config)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        outputs, expected = compiled(pixels(), IDS), model(pixels(), IDS)
        for name in ("loss", "logits_per_image", "image_embeds"):
            torch.testing.assert_close(outputs[name], expected[name])
        outputs.loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(("typo", "right"), [("caption_id", "caption_ids"), ("pixel_value", "pixel_values")])
def test_a_misspelt_argument_is_refused(typo, right):
    message = f"PairedCifarAligner.forward has no argument '{typo}'. Did you mean '{right}'"
    with pytest.raises(TypeError, match=message):
        make_model()(pixels(), **{typo: IDS})


class TestPredictCaptions:
    def test_the_best_come_first_with_their_probabilities(self):
        model = with_large_weights(temperature=0.3)
        predictions = model.predict_captions(pixels(), k=9)
        probabilities = model(pixels()).logits_per_image.softmax(dim=1)
        assert len(predictions) == 3
        for best, row in zip(predictions, probabilities, strict=True):
            assert [caption.probability for caption in best] == pytest.approx(sorted(row.tolist(), reverse=True))
            assert sum(caption.probability for caption in best) == pytest.approx(1)
            assert sorted(caption.caption for caption in best) == sorted(model.captions)
            for caption in best:
                position = tiny.CLASSES.index(caption.left) * 3 + tiny.CLASSES.index(caption.right)
                assert caption.caption == model.captions[position]
                assert caption.probability == pytest.approx(row[position].item())
        assert {len(best) for best in model.predict_captions(pixels())} == {5}
        assert model.predict_captions(pixels(), k=2) == [best[:2] for best in predictions]

    def test_it_finds_the_own_caption(self):
        model = with_large_weights()
        model.caption_embeds[5] = model(pixels(1)).image_embeds[0].detach()
        [[best]] = model.predict_captions(pixels(1), k=1)
        assert best.caption == "the photo on the left is cat and the photo on the right is red star"
        assert (best.left, best.right) == ("cat", "red_star")

    @pytest.mark.parametrize("k", [0, -1, 10])
    def test_k_out_of_range_is_refused(self, k):
        with pytest.raises(ValueError, match=f"`k` must be from 1 to 9, the number of captions, but got {k}"):
            make_model().predict_captions(pixels(), k=k)

    @pytest.mark.parametrize("training", [False, True])
    def test_it_works_in_evaluation_mode_and_keeps_the_mode(self, training):
        vision = tiny.vision_config(image_size=(16, 32), patch_size=8, hidden_dropout_prob=0.5)
        model = make_model(vision_config=vision)
        expected = model.predict_captions(pixels())
        model.train(training)
        assert model.predict_captions(pixels()) == expected
        assert model.training == training
        assert model.vision_tower.training == training


def test_the_vision_tower_is_the_image_encoder():
    model = make_model(bank=False)
    assert model.get_encoder("image") is model.vision_tower
