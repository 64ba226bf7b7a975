import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.retrieval as reference
from transformers import EvalPrediction

from vlmkit.metrics import chance_recall, compute_retrieval_metrics, recall_at_k, retrieval_metrics


def integers(*shape, high=3):
    """Embeddings whose dot products are exact, with many ties."""
    return torch.randint(-high, high + 1, shape).float()


def brute_force(similarity, relevant, cutoffs):
    """Metrics of one direction by the definition, query by query in plain Python."""
    recall, precision, average, best = {k: [] for k in cutoffs}, {k: [] for k in cutoffs}, [], []
    for row, truth in zip(similarity.tolist(), relevant.tolist(), strict=True):
        # False sorts before True: among equal scores, candidates that do not match come first.
        order = sorted(range(len(row)), key=lambda index: (-row[index], truth[index]))
        ranks = [rank for rank, index in enumerate(order, start=1) if truth[index]]
        best.append(ranks[0])
        average.append(np.mean([position / rank for position, rank in enumerate(ranks, start=1)]))
        for k in cutoffs:
            found = sum(rank <= k for rank in ranks)
            recall[k].append(found > 0)
            precision[k].append(found / k)
    return (
        {f"recall@{k}": np.mean(recall[k]) for k in cutoffs}
        | {f"precision@{k}": np.mean(precision[k]) for k in cutoffs}
        | {"map": np.mean(average), "median_rank": np.median(best)}
    )


def brute_force_both(images, texts, relevant, cutoffs):
    similarity = images @ texts.T
    directions = {"image_to_text": (similarity, relevant), "text_to_image": (similarity.T, relevant.T)}
    return {
        f"{direction}/{name}": value
        for direction, arguments in directions.items()
        for name, value in brute_force(*arguments, cutoffs).items()
    }


class TestRetrievalMetrics:
    def test_pairs_by_hand(self):
        # Similarities, row by row: image 0 finds its text second, the others first.
        images = torch.eye(3)
        texts = torch.tensor([[0.5, 0.1, 0.2], [0.9, 0.8, 0.3], [0.0, 0.0, 0.4]])
        metrics = retrieval_metrics(images, texts, cutoffs=(1, 2))
        assert metrics == pytest.approx(
            {
                "image_to_text/recall@1": 2 / 3,
                "image_to_text/precision@1": 2 / 3,
                "image_to_text/recall@2": 1,
                "image_to_text/precision@2": 1 / 2,
                "image_to_text/map": (1 / 2 + 1 + 1) / 3,
                "image_to_text/median_rank": 1,
                "text_to_image/recall@1": 2 / 3,  # text 1 prefers image 0
                "text_to_image/precision@1": 2 / 3,
                "text_to_image/recall@2": 1,
                "text_to_image/precision@2": 1 / 2,
                "text_to_image/map": (1 + 1 / 2 + 1) / 3,
                "text_to_image/median_rank": 1,
            }
        )

    def test_several_captions_by_hand(self):
        # Image 0 has the texts 0, 1 and 3 at ranks 1, 3 and 4; image 1 has text 2 at rank 3.
        images = torch.eye(2)
        texts = torch.tensor([[0.9, 0.4], [0.3, 0.5], [0.5, 0.3], [0.1, 0.2]])
        metrics = retrieval_metrics(
            images, texts, image_groups=torch.tensor([0, 1]), text_groups=torch.tensor([0, 0, 1, 0]), cutoffs=(1, 2)
        )
        assert metrics["image_to_text/recall@1"] == metrics["image_to_text/recall@2"] == 0.5
        assert metrics["image_to_text/precision@1"] == 0.5
        assert metrics["image_to_text/precision@2"] == 0.25
        assert metrics["text_to_image/recall@1"] == 0.25
        assert metrics["text_to_image/precision@2"] == 0.5
        assert metrics["image_to_text/map"] == pytest.approx(((1 + 2 / 3 + 3 / 4) / 3 + 1 / 3) / 2)
        assert metrics["image_to_text/median_rank"] == 2.0

    def test_median_rank_of_an_even_number_of_queries_lies_between_two_ranks(self):
        texts = torch.tensor([[0.1, 0.0], [0.9, 0.5]])
        assert retrieval_metrics(torch.eye(2), texts, cutoffs=(1,))["image_to_text/median_rank"] == 1.5

    def test_perfect_embeddings(self):
        embeds = torch.eye(12)
        metrics = retrieval_metrics(embeds, embeds)
        assert metrics["image_to_text/recall@1"] == metrics["text_to_image/map"] == 1.0
        assert metrics["image_to_text/precision@10"] == pytest.approx(0.1)

    def test_constant_embeddings_come_last(self):
        constant = F.normalize(torch.randn(1, 64)).repeat(101, 1)
        metrics = retrieval_metrics(constant, constant)
        assert metrics["image_to_text/recall@10"] == metrics["text_to_image/recall@10"] == 0.0
        assert metrics["image_to_text/median_rank"] == metrics["text_to_image/median_rank"] == 101
        assert metrics["image_to_text/map"] == pytest.approx(1 / 101)

    @pytest.mark.parametrize("chunk_size", [1, 2, 5, 1000])
    @pytest.mark.parametrize("width", [7, 256, 768])
    def test_equal_candidates_tie_whatever_the_order_of_addition(self, chunk_size, width):
        images = F.normalize(torch.randn(101, width))
        texts = F.normalize(torch.randn(1, width)).repeat(101, 1)
        metrics = retrieval_metrics(images, texts, cutoffs=(100,), chunk_size=chunk_size)
        assert metrics["image_to_text/recall@100"] == 0.0

    def test_a_text_written_twice_ties_with_itself(self):
        texts = F.normalize(torch.randn(50, 64)).repeat(2, 1)
        metrics = retrieval_metrics(texts, texts, cutoffs=(1, 2), chunk_size=1)
        assert metrics["image_to_text/recall@1"] == 0.0
        assert metrics["image_to_text/recall@2"] == 1.0

    @pytest.mark.parametrize("chunk_size", [1, 7, 10_000])
    def test_agrees_with_brute_force_on_ties_and_uneven_groups(self, chunk_size):
        images, texts = integers(30, 4), integers(90, 4)
        image_groups, text_groups = torch.randint(0, 12, (30,)), torch.randint(0, 12, (90,))
        image_groups[:12] = text_groups[:12] = torch.arange(12)
        relevant = image_groups[:, None] == text_groups[None, :]
        cutoffs = (1, 5, 30)
        ours = retrieval_metrics(
            images, texts, image_groups=image_groups, text_groups=text_groups, cutoffs=cutoffs, chunk_size=chunk_size
        )
        assert ours == pytest.approx(brute_force_both(images, texts, relevant, cutoffs))
        assert ours == retrieval_metrics(images, texts, cutoffs=cutoffs, relevant=relevant, chunk_size=chunk_size)

    def test_agrees_with_brute_force_for_hundreds_of_matches(self):
        images, texts = integers(7, 3), integers(500, 3)
        relevant = torch.rand(7, 500) < 0.4
        relevant[0] = True
        ours = retrieval_metrics(images, texts, cutoffs=(1, 7), relevant=relevant)
        assert ours == pytest.approx(brute_force_both(images, texts, relevant, (1, 7)))

    def test_relevance_need_not_be_a_grouping(self):
        # Text 0 is true of both images, text 1 of the second one only.
        relevant = torch.tensor([[True, False], [True, True]])
        images, texts = torch.eye(2), torch.tensor([[0.1, 0.8], [0.6, 0.7]])
        ours = retrieval_metrics(images, texts, cutoffs=(1, 2), relevant=relevant.numpy())
        assert ours == pytest.approx(brute_force_both(images, texts, relevant, (1, 2)))
        assert ours["image_to_text/recall@1"] == 0.5
        assert ours["text_to_image/recall@1"] == 1.0

    @pytest.mark.parametrize("direction", ["image_to_text", "text_to_image"])
    def test_agrees_with_torchmetrics(self, direction):
        # All similarities are positive: torchmetrics takes matches of other scores for wrong answers.
        images, texts = F.normalize(torch.rand(20, 16)), F.normalize(torch.rand(60, 16))
        image_groups, text_groups = torch.arange(20), torch.randint(0, 20, (60,))
        text_groups[:20] = torch.arange(20)
        relevant, similarity = image_groups[:, None] == text_groups[None, :], images @ texts.T
        if direction == "text_to_image":
            relevant, similarity = relevant.T, similarity.T
        ours = retrieval_metrics(images, texts, image_groups=image_groups, text_groups=text_groups)

        def mean(metric, **options):
            rows = zip(similarity, relevant, strict=True)
            return np.mean([metric(scores, truth, **options).item() for scores, truth in rows])

        assert ours[f"{direction}/map"] == pytest.approx(mean(reference.retrieval_average_precision), abs=1e-6)
        for k in (1, 5, 10):
            hit_rate = mean(reference.retrieval_hit_rate, top_k=k)
            precision = mean(reference.retrieval_precision, top_k=k)
            assert ours[f"{direction}/recall@{k}"] == pytest.approx(hit_rate, abs=1e-6)
            assert ours[f"{direction}/precision@{k}"] == pytest.approx(precision, abs=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtypes_and_numpy_give_the_same(self, dtype):
        images, texts, groups = integers(12, 8), integers(12, 8), torch.arange(12) // 2
        expected = retrieval_metrics(images, texts, image_groups=groups, text_groups=groups)
        assert retrieval_metrics(images.to(dtype), texts, image_groups=groups.int(), text_groups=groups) == expected
        assert (
            retrieval_metrics(
                images.numpy().astype("float64"), texts.numpy(), image_groups=groups.numpy(), text_groups=groups
            )
            == expected
        )

    def test_groups_may_be_any_integers_in_any_order(self):
        images, texts = integers(6, 4), integers(6, 4)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        groups = torch.tensor([-7, 10**12, 3, 0, 8, 2])
        shuffled = retrieval_metrics(
            images, texts[order], image_groups=groups, text_groups=groups[order], cutoffs=(1, 3)
        )
        assert shuffled == retrieval_metrics(images, texts, cutoffs=(1, 3))

    def test_autocast_does_not_lower_the_precision(self):
        images, texts = F.normalize(torch.randn(200, 32)), F.normalize(torch.randn(200, 32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lowered = retrieval_metrics(images, texts)
        assert lowered == retrieval_metrics(images, texts)

    def test_leaves_its_inputs_alone_and_takes_embeddings_with_gradients(self):
        images, texts = torch.randn(12, 4, requires_grad=True), torch.randn(12, 4)
        before = images.detach().clone()
        retrieval_metrics(images, texts)
        assert torch.equal(images, before)

    def test_without_cutoffs_it_still_averages(self):
        metrics = retrieval_metrics(torch.eye(2), torch.eye(2), cutoffs=())
        assert metrics["text_to_image/map"] == 1.0
        assert len(metrics) == 4

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_gpu_gives_the_same(self):
        images, texts, groups = integers(50, 8), integers(50, 8), torch.arange(50) // 5
        assert retrieval_metrics(
            images.cuda(), texts, image_groups=groups, text_groups=groups.cuda()
        ) == retrieval_metrics(images, texts, image_groups=groups, text_groups=groups)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"text_embeds": torch.eye(4)}, r"`image_embeds` and `text_embeds` must have the same width, but got 3"),
            ({"image_embeds": torch.ones(3)}, r"`image_embeds` must be a matrix \(rows, width\) that is not empty,"),
            ({"image_embeds": torch.ones(0, 3)}, r"`image_embeds` must be a matrix \(rows, width\) that is not"),
            ({"text_embeds": torch.ones(3, 0)}, r"`text_embeds` must be a matrix \(rows, width\) that is not empty,"),
            ({"text_embeds": torch.tensor([[1.0], [np.nan], [np.inf]])}, r"`text_embeds` must be finite in float32,"),
            ({"image_embeds": torch.full((3, 3), 1e30)}, r"`image_embeds` must be finite in float32, but 3 rows are"),
            ({"cutoffs": (1, 5)}, r"Cutoffs must be from 1 to 3, the number of candidates, but got 5"),
            ({"cutoffs": (0,)}, r"Cutoffs must be from 1 to 3, the number of candidates, but got 0"),
            ({"chunk_size": 0}, "`chunk_size` must be at least 1, but got 0"),
            ({"text_embeds": torch.ones(4, 3)}, r"Without groups, `image_embeds` and `text_embeds` must have the"),
            ({"image_groups": torch.arange(3)}, r"`image_groups` and `text_groups` must be passed together"),
            ({"text_groups": torch.arange(3)}, r"`image_groups` and `text_groups` must be passed together"),
            ({"image_groups": torch.arange(2), "text_groups": torch.arange(3)}, r"`image_groups` must be integers"),
            ({"image_groups": torch.arange(3), "text_groups": torch.arange(4)}, r"`text_groups` must be integers of"),
            ({"image_groups": torch.arange(3), "text_groups": torch.ones(3)}, r"`text_groups` must be integers of"),
            ({"image_groups": torch.arange(3), "text_groups": torch.tensor([0, 1, 1])}, r"Group 2 must have a"),
            ({"image_groups": torch.tensor([0, 1, 1]), "text_groups": torch.arange(3)}, r"Group 2 must have a"),
            (
                {"relevant": torch.eye(3).bool(), "image_groups": torch.arange(3), "text_groups": torch.arange(3)},
                r"Pass either `relevant` or groups, but not both",
            ),
            ({"relevant": torch.eye(4).bool()}, r"`relevant` must be booleans of the shape \(3, 3\), but got \(4,"),
            ({"relevant": torch.eye(3)}, r"`relevant` must be booleans of the shape \(3, 3\), but got \(3, 3\) of"),
            ({"relevant": torch.tensor([[True] * 3, [False] * 3, [True] * 3])}, r"`relevant` must have a match for"),
            ({"relevant": torch.tensor([[True, True, False]] * 3)}, r"`relevant` must have a match for every text,"),
        ],
    )
    def test_errors(self, arguments, message):
        defaults = {"image_embeds": torch.eye(3), "text_embeds": torch.eye(3), "cutoffs": (1,)}
        with pytest.raises(ValueError, match=message):
            retrieval_metrics(**(defaults | arguments))


class TestRecallAtK:
    def test_by_hand(self):
        similarity = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
        queries, candidates = torch.tensor([4, 6]), torch.tensor([4, 6, 4])
        groups = {"query_groups": queries, "candidate_groups": candidates}
        assert [recall_at_k(similarity, **groups, k=k) for k in (1, 2, 3)] == [0.0, 1.0, 1.0]

    @pytest.mark.parametrize("k", [1, 4, 25])
    def test_agrees_with_brute_force_and_retrieval_metrics(self, k):
        images, texts, groups = integers(25, 3), integers(25, 3), torch.arange(25) // 5
        similarity = images @ texts.T
        ours = recall_at_k(similarity, query_groups=groups, candidate_groups=groups, k=k)
        assert ours == pytest.approx(brute_force(similarity, groups[:, None] == groups, (k,))[f"recall@{k}"])
        assert (
            ours
            == retrieval_metrics(images, texts, image_groups=groups, text_groups=groups, cutoffs=(k,))[
                f"image_to_text/recall@{k}"
            ]
        )

    def test_ties_count_against_the_model_but_not_within_the_group(self):
        similarity = torch.ones(2, 4)
        groups = {"query_groups": torch.tensor([0, 1]), "candidate_groups": torch.tensor([0, 0, 1, 1])}
        assert [recall_at_k(similarity, **groups, k=k) for k in (1, 2, 3, 4)] == [0.0, 0.0, 1.0, 1.0]

    def test_leaves_the_similarity_alone_and_takes_numpy(self):
        similarity = np.eye(3, dtype=np.float32)
        assert recall_at_k(similarity, query_groups=np.arange(3), candidate_groups=np.arange(3), k=1) == 1.0
        np.testing.assert_array_equal(similarity, np.eye(3))

    @pytest.mark.parametrize(
        ("similarity", "query_groups", "candidate_groups", "k", "message"),
        [
            (torch.eye(3), [0, 1, 2], [0, 1, 2], 4, r"Cutoffs must be from 1 to 3, the number of candidates, but"),
            (torch.eye(3), [0, 1, 2], [0, 1, 2], 0, r"Cutoffs must be from 1 to 3, the number of candidates, but"),
            (torch.eye(3), [0, 1, 5], [0, 1, 2], 1, r"Group 5 must have a candidate for its query"),
            (torch.eye(3), [0, 1], [0, 1, 2], 1, r"`query_groups` must be integers of the shape \(3,\), one for"),
            (torch.ones(2, 3), [0, 1], [0, 1], 1, r"`candidate_groups` must be integers of the shape \(3,\), one"),
            (torch.ones(3), [0, 1, 2], [0, 1, 2], 1, r"`similarity` must be a matrix \(queries, candidates\) of"),
            (torch.ones(0, 3), [], [0, 1, 2], 1, r"`similarity` must be a matrix \(queries, candidates\) of finite"),
            (torch.full((1, 1), np.nan), [0], [0], 1, "finite"),
        ],
    )
    def test_errors(self, similarity, query_groups, candidate_groups, k, message):
        with pytest.raises(ValueError, match=message):
            recall_at_k(
                similarity,
                query_groups=torch.tensor(query_groups),
                candidate_groups=torch.tensor(candidate_groups),
                k=k,
            )


class TestChanceRecall:
    def test_one_match_is_k_over_n(self):
        assert chance_recall(463, num_matches=1, k=10) == pytest.approx(10 / 463)

    def test_several_matches_by_hand(self):
        # Both draws miss 2 of 5 matches with (3/5)(2/4).
        assert chance_recall(5, num_matches=2, k=2) == pytest.approx(1 - 3 / 10)

    def test_is_the_mean_over_queries(self):
        expected = (chance_recall(20, num_matches=1, k=3) + chance_recall(20, num_matches=4, k=3)) / 2
        assert chance_recall(20, num_matches=[1, 4], k=3) == pytest.approx(expected)
        assert chance_recall(20, num_matches=torch.tensor([1, 4]), k=3) == pytest.approx(expected)

    @pytest.mark.parametrize(("matches", "k"), [(1, 8), (8, 1), (5, 4), (7, 2)])
    def test_is_certain_when_the_misses_run_out(self, matches, k):
        assert chance_recall(8, num_matches=matches, k=k) == 1.0

    def test_random_rankings_come_close(self):
        groups = torch.arange(40) // 4
        recalls = [
            recall_at_k(torch.rand(40, 40), query_groups=groups, candidate_groups=groups, k=5) for _ in range(100)
        ]
        assert np.mean(recalls) == pytest.approx(chance_recall(40, num_matches=4, k=5), abs=0.03)

    @pytest.mark.parametrize(("matches", "k"), [(0, 1), (9, 1), ([], 1), ([1, 9], 1), (1, 0), (1, 9)])
    def test_errors(self, matches, k):
        with pytest.raises(ValueError, match=r"must be from 1 to 8, the number of candidates"):
            chance_recall(8, num_matches=matches, k=k)


class TestComputeRetrievalMetrics:
    def test_images_of_a_group_are_one_candidate(self):
        groups = np.array([7, 7, 3, 3])
        images, texts = integers(2, 4).repeat_interleave(2, dim=0), integers(4, 4)
        metrics = compute_retrieval_metrics(EvalPrediction((images.numpy(), texts.numpy()), groups), cutoffs=(1, 2))
        expected = retrieval_metrics(
            images[::2], texts, image_groups=torch.tensor([7, 3]), text_groups=torch.tensor(groups), cutoffs=(1, 2)
        )
        assert expected.items() <= metrics.items()
        both = metrics["image_to_text/recall@2"] + metrics["text_to_image/recall@2"]
        assert metrics["mean_recall@2"] == pytest.approx(both / 2)

    def test_without_groups_each_row_is_a_pair(self):
        images, texts = integers(12, 4), integers(12, 4)
        metrics = compute_retrieval_metrics(EvalPrediction((images.numpy(), texts.numpy()), None))
        assert retrieval_metrics(images, texts).items() <= metrics.items()

    @pytest.mark.parametrize(
        ("predictions", "groups", "cutoffs", "message"),
        [
            (np.eye(3), None, (1,), "keys_to_ignore_at_inference"),
            ((np.eye(3), np.eye(3), np.eye(3)), None, (1,), "keys_to_ignore_at_inference"),
            ((np.eye(3), np.eye(3)), np.arange(2), (1,), r"`image_embeds`, `text_embeds` and `label_ids` must have"),
            ((np.eye(3)[:2], np.eye(3)), None, (1,), r"`image_embeds`, `text_embeds` and `label_ids` must have one"),
            ((np.eye(3), np.eye(3)), (), (1,), r"label_names=\['group_ids'\]"),
            ((np.eye(3), np.eye(3)), np.zeros(3, dtype=int), (2,), r"Cutoffs must be from 1 to 1, the number of"),
        ],
    )
    def test_errors(self, predictions, groups, cutoffs, message):
        with pytest.raises(ValueError, match=message):
            compute_retrieval_metrics(EvalPrediction(predictions, groups), cutoffs)
