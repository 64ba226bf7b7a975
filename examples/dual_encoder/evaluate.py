"""Recall@K of a saved dual encoder on held-out images and captions.

python examples/dual_encoder/evaluate.py --model runs/dual_encoder --data jxie/flickr8k --split test
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from common import DataArguments, cache_features, load_tables, parse
from transformers import AutoModel, AutoProcessor

import vlmkit  # noqa: F401 (registers the Auto classes)
from vlmkit.analysis.plots import similarity_grid
from vlmkit.data import caption_matches, group_id
from vlmkit.metrics import chance_recall, retrieval_metrics

CUTOFFS = (1, 5, 10)


@dataclass
class EvaluationArguments:
    """Which model, and where the results go."""

    model: str = field(metadata={"help": "folder or hub id of a DualEncoderModel"})
    split: str = field(default="test", metadata={"help": "train, validation or test"})
    output_dir: str = field(default="runs/dual_encoder_evaluation", metadata={"help": "metrics.json, similarity.png"})
    grid_size: int = field(default=8, metadata={"help": "images in similarity.png"})


@torch.no_grad()
def main() -> None:
    """Encode every image and caption once, and print recall both ways beside chance."""
    arguments, data_args = parse(EvaluationArguments, DataArguments)
    model = AutoModel.from_pretrained(arguments.model).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    tables = load_tables(data_args)
    if arguments.split not in tables:
        raise SystemExit(f"there is no split {arguments.split!r}; choose one of {', '.join(tables)}")
    table = tables[arguments.split]

    features = cache_features(model, processor, table)
    image_pooled = torch.stack(list(features["image_pooled"]))
    text_pooled = torch.cat(list(features["text_pooled"]))
    outputs = model(image_pooled=image_pooled, text_pooled=text_pooled, return_loss=False)

    images = torch.tensor([group_id(name) for name in table["image_id"]])
    texts = images.repeat_interleave(torch.tensor([len(captions) for captions in table["captions"]]))
    relevant = images[:, None] == texts[None, :]
    if "scene" in table.column_names:  # a caption may be true of several scenes
        relevant = torch.from_numpy(caption_matches(table))
    metrics = retrieval_metrics(outputs.image_embeds, outputs.text_embeds, cutoffs=CUTOFFS, relevant=relevant)

    print(f"{len(images):,} images, {len(texts):,} captions")
    for direction, matches in (("image_to_text", relevant), ("text_to_image", relevant.T)):
        for k in CUTOFFS:
            chance = chance_recall(matches.shape[1], matches.sum(1), k)
            print(f"{direction}/recall@{k:<3} {metrics[f'{direction}/recall@{k}']:6.1%}   (chance {chance:.1%})")

    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
    size = min(arguments.grid_size, len(table))
    first = torch.tensor([0, *(len(captions) for captions in table["captions"])]).cumsum(0)[:size]
    similarity = outputs.image_embeds[:size] @ outputs.text_embeds[first].T
    captions = [captions[0] for captions in table["captions"][:size]]
    similarity_grid(table["image"][:size], captions, similarity.numpy()).savefig(folder / "similarity.png", dpi=120)
    print(f"written: {folder / 'metrics.json'}, {folder / 'similarity.png'}")


if __name__ == "__main__":
    main()
