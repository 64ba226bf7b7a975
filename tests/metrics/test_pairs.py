import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as classification
import torchmetrics.functional.retrieval as retrieval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import EvalPrediction

from vlmkit.metrics import compute_pair_metrics, pair_chance, pair_metrics, predicted_captions

NUM_CLASSES = 5
BANK_SIZE = NUM_CLASSES**2


def noisy_pairs(count=60, width=16):
    """Images, bank and ids of a model that is often, but not always, right; all similarities are positive."""
    bank = F.normalize(torch.rand(BANK_SIZE, width))
    ids = torch.randint(0, BANK_SIZE, (count,))
    return F.normalize(bank[ids] + 0.8 * torch.rand(count, width)), bank, ids


class LargestTensor(TorchDispatchMode):
    """Watches the number of elements of all tensors that are made."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.size = max(self.size, *(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)), 0)
        return made


class TestPairMetrics:
    def test_by_hand(self):
        # Of the pairs (0, 1), (0, 1), (1, 0) and (1, 1): found; swapped; right side only, own caption third; found.
        bank = torch.eye(4)
        images = torch.tensor([[0.0, 0.9, 0.1, 0.2], [0.0, 0.5, 0.9, 0.1], [0.9, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.9]])
        metrics = pair_metrics(images, bank, caption_ids=torch.tensor([1, 1, 2, 3]), num_classes=2, cutoffs=(1, 2, 4))
        assert metrics == pytest.approx(
            {
                "top@1": 2 / 4,
                "precision@1": 2 / 4,
                "top@2": 3 / 4,
                "precision@2": 3 / 8,
                "top@4": 1,
                "precision@4": 1 / 4,
                "map": (1 + 1 / 2 + 1 / 3 + 1) / 4,
                "median_rank": 1.5,
                "left_accuracy": 2 / 4,
                "right_accuracy": 3 / 4,
                "swapped_rate": 1 / 3,
            }
        )

    def test_perfect_embeddings(self):
        bank = torch.eye(100)
        metrics = pair_metrics(bank, bank, caption_ids=torch.arange(100), num_classes=10)
        assert metrics["top@1"] == metrics["map"] == metrics["left_accuracy"] == metrics["right_accuracy"] == 1.0
        assert metrics["precision@100"] == pytest.approx(0.01)
        assert metrics["median_rank"] == 1.0
        assert metrics["swapped_rate"] == 0.0

    def test_sides_exchanged(self):
        ids = torch.arange(BANK_SIZE)
        exchanged = NUM_CLASSES * (ids % NUM_CLASSES) + ids // NUM_CLASSES
        bank = torch.eye(BANK_SIZE)
        metrics = pair_metrics(bank[exchanged], bank, caption_ids=ids, num_classes=NUM_CLASSES, cutoffs=(1,))
        assert metrics["swapped_rate"] == 1.0
        assert metrics["top@1"] == metrics["left_accuracy"] == 1 / NUM_CLASSES  # the pairs of one class twice

    def test_without_pairs_of_two_classes_nothing_is_swapped(self):
        bank = torch.eye(4)
        assert (
            pair_metrics(bank[[3, 0]], bank, caption_ids=torch.tensor([0, 3]), num_classes=2, cutoffs=())[
                "swapped_rate"
            ]
            == 0.0
        )

    @pytest.mark.parametrize("chunk_size", [1, 7, 1000])
    def test_constant_embeddings_come_last_and_guess_at_chance(self, chunk_size):
        bank = F.normalize(torch.randn(1, 64)).repeat(BANK_SIZE, 1)
        metrics = pair_metrics(
            bank,
            bank,
            caption_ids=torch.arange(BANK_SIZE),
            num_classes=NUM_CLASSES,
            cutoffs=(1, BANK_SIZE - 1),
            chunk_size=chunk_size,
        )
        assert metrics[f"top@{BANK_SIZE - 1}"] == 0.0
        assert metrics["median_rank"] == BANK_SIZE
        assert metrics["map"] == pytest.approx(1 / BANK_SIZE)

    def test_a_bank_without_the_right_side_ties_within_the_left(self):
        bank = torch.eye(NUM_CLASSES).repeat_interleave(NUM_CLASSES, dim=0)
        metrics = pair_metrics(
            bank,
            bank,
            caption_ids=torch.arange(BANK_SIZE),
            num_classes=NUM_CLASSES,
            cutoffs=(NUM_CLASSES - 1, NUM_CLASSES),
        )
        assert metrics["left_accuracy"] == 1.0
        assert metrics["right_accuracy"] == 1 / NUM_CLASSES
        assert metrics[f"top@{NUM_CLASSES - 1}"] == 0.0
        assert metrics[f"top@{NUM_CLASSES}"] == 1.0

    @pytest.mark.parametrize("chunk_size", [1, 7, 60, 1000])
    def test_chunks_change_nothing(self, chunk_size):
        images, bank, ids = noisy_pairs()
        options = {"num_classes": NUM_CLASSES, "cutoffs": (1, 5)}
        assert pair_metrics(images, bank, caption_ids=ids, **options, chunk_size=chunk_size) == pair_metrics(
            images, bank, caption_ids=ids, **options
        )

    def test_holds_only_a_chunk_of_similarities(self):
        images, bank, ids = noisy_pairs(count=500, width=4)
        with LargestTensor() as largest:
            pair_metrics(images, bank, caption_ids=ids, num_classes=NUM_CLASSES, cutoffs=(1,), chunk_size=10)
            predicted_captions(images, bank, k=3, chunk_size=10)
        assert largest.size == images.numel() < len(images) * len(bank) / 5

    def test_agrees_with_torchmetrics(self):
        images, bank, ids = noisy_pairs()
        ours = pair_metrics(images, bank, caption_ids=ids, num_classes=NUM_CLASSES, cutoffs=(1, 3))
        similarity = images @ bank.T
        for k in (1, 3):
            options = {"num_classes": BANK_SIZE, "top_k": k, "average": "micro"}
            theirs = classification.multiclass_accuracy(similarity, ids, **options).item()
            assert ours[f"top@{k}"] == pytest.approx(theirs)
        truth = F.one_hot(ids, BANK_SIZE).bool()
        average = [retrieval.retrieval_average_precision(*row).item() for row in zip(similarity, truth, strict=True)]
        assert ours["map"] == pytest.approx(np.mean(average))
        predicted = similarity.argmax(dim=1)
        for side, divide in (("left", torch.floor_divide), ("right", torch.remainder)):
            labels = divide(predicted, NUM_CLASSES), divide(ids, NUM_CLASSES)
            theirs = classification.multiclass_accuracy(*labels, NUM_CLASSES, average="micro").item()
            assert ours[f"{side}_accuracy"] == pytest.approx(theirs)
        assert 0 < ours["top@1"] < ours["left_accuracy"] < 1  # the comparison means something

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtypes_and_numpy_give_the_same(self, dtype):
        images, bank = torch.randint(-3, 4, (30, 8)).float(), torch.randint(-3, 4, (BANK_SIZE, 8)).float()
        ids = torch.randint(0, BANK_SIZE, (30,))
        expected = pair_metrics(images, bank, caption_ids=ids, num_classes=NUM_CLASSES, cutoffs=(1, 5))
        assert (
            pair_metrics(images.to(dtype), bank, caption_ids=ids.int(), num_classes=NUM_CLASSES, cutoffs=(1, 5))
            == expected
        )
        assert (
            pair_metrics(images.numpy(), bank.numpy(), caption_ids=ids.numpy(), num_classes=NUM_CLASSES, cutoffs=(1, 5))
            == expected
        )

    def test_autocast_does_not_lower_the_precision(self):
        images, bank, ids = noisy_pairs()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lowered = pair_metrics(images, bank, caption_ids=ids, num_classes=NUM_CLASSES, cutoffs=(1,))
        assert lowered == pair_metrics(images, bank, caption_ids=ids, num_classes=NUM_CLASSES, cutoffs=(1,))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_gpu_gives_the_same(self):
        images, bank, ids = noisy_pairs()
        expected = pair_metrics(images, bank, caption_ids=ids, num_classes=NUM_CLASSES, cutoffs=(1, 5))
        assert pair_metrics(
            images.cuda(), bank, caption_ids=ids, num_classes=NUM_CLASSES, cutoffs=(1, 5)
        ) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_classes": 3}, r"`caption_embeds` must have 9 rows for 3 classes and `caption_ids` 2 for the"),
            ({"caption_ids": torch.tensor([0])}, r"`caption_embeds` must have 4 rows for 2 classes and"),
            ({"caption_ids": torch.tensor([0, 4])}, r"`caption_ids` must be from 0 to 3, but got 4 in row 1"),
            ({"caption_ids": torch.tensor([-1, 0])}, r"`caption_ids` must be from 0 to 3, but got -1 in row 0"),
            ({"caption_ids": torch.ones(2)}, r"`caption_ids` must be a vector of at least one integer, but got"),
            ({"caption_ids": torch.zeros(2, 1, dtype=int)}, r"`caption_ids` must be a vector of at least one"),
            ({"num_classes": 1}, r"`num_classes` must be at least 2, but got 1"),
            ({"cutoffs": (1, 5)}, r"Cutoffs must be from 1 to 4, the number of candidates, but got 5"),
            ({"cutoffs": (0,)}, r"Cutoffs must be from 1 to 4, the number of candidates, but got 0"),
            ({"chunk_size": 0}, "`chunk_size` must be at least 1, but got 0"),
            ({"image_embeds": torch.ones(2, 3)}, r"`image_embeds` and `caption_embeds` must have the same width,"),
            ({"image_embeds": torch.full((2, 4), np.nan)}, r"`image_embeds` must be finite in float32, but 2 rows"),
            ({"caption_embeds": torch.full((4, 4), np.inf)}, r"`caption_embeds` must be finite in float32, but 4"),
            ({"caption_embeds": torch.ones(4)}, r"`caption_embeds` must be a matrix \(rows, width\) that is not"),
            ({"image_embeds": torch.ones(0, 4)}, r"`image_embeds` must be a matrix \(rows, width\) that is not"),
        ],
    )
    def test_errors(self, arguments, message):
        defaults = {
            "image_embeds": torch.eye(4)[:2],
            "caption_embeds": torch.eye(4),
            "caption_ids": torch.tensor([0, 1]),
            "num_classes": 2,
            "cutoffs": (1,),
        }
        with pytest.raises(ValueError, match=message):
            pair_metrics(**{**defaults, **arguments})


class TestPredictedCaptions:
    @pytest.mark.parametrize("chunk_size", [1, 7, 1000])
    def test_agrees_with_a_sort_of_the_whole_matrix(self, chunk_size):
        images, bank, _ = noisy_pairs()
        ids, similarities = predicted_captions(images, bank, k=4, chunk_size=chunk_size)
        expected = (images @ bank.T).sort(dim=1, descending=True)
        assert torch.equal(ids, expected.indices[:, :4])
        torch.testing.assert_close(similarities, expected.values[:, :4])

    def test_takes_numpy_half_precision_and_gradients(self):
        images = torch.eye(3, dtype=torch.bfloat16, requires_grad=True)
        ids, similarities = predicted_captions(images, np.eye(3))
        assert ids[:, 0].tolist() == [0, 1, 2]
        assert similarities.dtype == torch.float32
        assert not similarities.requires_grad

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"k": 4}, r"Cutoffs must be from 1 to 3, the number of candidates, but got 4"),
            ({"k": 0}, r"Cutoffs must be from 1 to 3, the number of candidates, but got 0"),
            ({"chunk_size": 0}, "`chunk_size` must be at least 1, but got 0"),
            ({"image_embeds": torch.ones(2, 4)}, r"`image_embeds` and `caption_embeds` must have the same width,"),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            predicted_captions(**{"image_embeds": torch.eye(3), "caption_embeds": torch.eye(3), **arguments})


class TestPairChance:
    def test_half_of_the_pairs_show_one_class_twice(self):
        ids = torch.tensor([101 * 7, 101 * 99, 3, 9998])  # two of equal classes, two of different ones
        chance = pair_chance(ids, num_classes=100, cutoffs=(1, 10, 100, 200, 10_000))
        assert chance["uniform/top@10"] == 0.001
        assert chance["same_class/top@1"] == pytest.approx(0.005)
        assert chance["same_class/top@10"] == pytest.approx(0.05)
        assert chance["same_class/top@100"] == pytest.approx(0.5)
        assert chance["same_class/top@200"] == pytest.approx(0.5 + 0.5 * 100 / 9900)
        assert chance["same_class/top@10000"] == pytest.approx(1.0)

    def test_pairs_drawn_evenly_gain_nothing(self):
        chance = pair_chance(np.arange(BANK_SIZE), num_classes=NUM_CLASSES, cutoffs=(1, NUM_CLASSES, 12, BANK_SIZE))
        for k in (1, NUM_CLASSES, 12, BANK_SIZE):
            assert chance[f"uniform/top@{k}"] == pytest.approx(chance[f"same_class/top@{k}"])

    def test_is_what_the_bet_scores(self):
        same = torch.arange(BANK_SIZE) % (NUM_CLASSES + 1) == 0
        ids = torch.cat([torch.arange(BANK_SIZE), same.nonzero()[:, 0].repeat(5)])
        cutoffs = (1, 3, 8)
        scores = []
        for _ in range(200):
            bet = torch.rand(1, BANK_SIZE) + 2 * same  # any caption of equal classes before any other
            scores.append(
                pair_metrics(
                    bet.repeat(len(ids), 1),
                    torch.eye(BANK_SIZE),
                    caption_ids=ids,
                    num_classes=NUM_CLASSES,
                    cutoffs=cutoffs,
                )
            )
        chance = pair_chance(ids, num_classes=NUM_CLASSES, cutoffs=cutoffs)
        for k in cutoffs:
            mean = np.mean([score[f"top@{k}"] for score in scores])
            assert mean == pytest.approx(chance[f"same_class/top@{k}"], abs=0.01)

    @pytest.mark.parametrize(
        ("ids", "num_classes", "k", "message"),
        [
            ([0, 4], 2, 1, r"`caption_ids` must be from 0 to 3, but got 4 in row 1"),
            ([0], 1, 1, r"`num_classes` must be at least 2, but got 1"),
            ([0], 2, 5, r"Cutoffs must be from 1 to 4, the number of candidates, but got 5"),
            (np.zeros(0, dtype=int), 2, 1, r"`caption_ids` must be a vector of at least one integer, but got \(0,\)"),
        ],
    )
    def test_errors(self, ids, num_classes, k, message):
        with pytest.raises(ValueError, match=message):
            pair_chance(np.asarray(ids), num_classes=num_classes, cutoffs=(k,))


class TestComputePairMetrics:
    def test_is_pair_metrics(self):
        images, bank, ids = noisy_pairs()
        prediction = EvalPrediction(images.numpy(), ids.numpy())
        ours = compute_pair_metrics(prediction, caption_embeds=bank, num_classes=NUM_CLASSES, cutoffs=(1, 5))
        assert ours == pair_metrics(images, bank, caption_ids=ids, num_classes=NUM_CLASSES, cutoffs=(1, 5))

    @pytest.mark.parametrize(
        ("predictions", "ids", "message"),
        [
            ((np.eye(4), np.eye(4)), np.arange(4), r"`predictions` must be `image_embeds` only, but got 2 arrays"),
            (np.eye(4), None, r"label_names=\['caption_ids'\]"),
            (np.eye(4), (), r"label_names=\['caption_ids'\]"),
            (np.eye(4), np.arange(3), r"`caption_embeds` must have 4 rows for 2 classes and `caption_ids` 4 for the"),
        ],
    )
    def test_errors(self, predictions, ids, message):
        with pytest.raises(ValueError, match=message):
            compute_pair_metrics(EvalPrediction(predictions, ids), torch.eye(4), num_classes=2, cutoffs=(1,))
