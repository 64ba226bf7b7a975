"""Retrieval metrics of a table, with chance levels."""

from vlmkit.inference import TableEmbeddings
from vlmkit.metrics import chance_recall, retrieval_metrics

CUTOFFS = (1, 5, 10)


def score_retrieval(embeds: TableEmbeddings) -> dict[str, float]:
    """Compute Recall@K in both directions and print it next to the chance level."""
    num_images, num_captions = len(embeds.image_embeds), len(embeds.text_embeds)
    cutoffs = [k for k in CUTOFFS if k <= min(num_images, num_captions)]
    metrics = retrieval_metrics(*embeds, cutoffs=cutoffs)
    chances = {"image_to_text": (num_captions, embeds.text_groups.bincount()), "text_to_image": (num_images, 1)}
    print(f"\n{f'{num_images:,} held-out images, {num_captions:,} captions':40}{'recall':>9}{'chance':>9}")
    recalls = {}
    for direction, (num_candidates, num_matches) in chances.items():
        for k in cutoffs:
            name = f"{direction}/recall@{k}"
            recalls[name] = metrics[name]
            print(f"{name:40}{metrics[name]:9.1%}{chance_recall(num_candidates, num_matches=num_matches, k=k):9.1%}")
    return recalls
