"""Compute Recall@K of a saved dual encoder on held-out images and captions.

python examples/dual_encoder/evaluate.py --model runs/dual_encoder --data jxie/flickr8k --split test
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from retrieval_data import DataArguments, draw_similarity, load_tables, print_recalls, score
from transformers import AutoModel, AutoProcessor

import vlmkit  # noqa: F401 (registers the Auto classes)
from vlmkit.training import parse_arguments

CUTOFFS = (1, 5, 10)


@dataclass
class EvaluationArguments:
    """Model, split and output folder."""

    model: str = field(metadata={"help": "Folder or hub id of a DualEncoderModel."})
    split: str = field(default="test", metadata={"help": "Split to evaluate: train, validation or test."})
    output_dir: str = field(
        default="runs/dual_encoder_evaluation", metadata={"help": "Folder for metrics.json and similarity.png."}
    )
    grid_size: int = field(default=8, metadata={"help": "Number of images in similarity.png."})


def main() -> None:
    """Encode every image and caption once, and print recall in both directions next to the chance level."""
    arguments, data_args = parse_arguments(EvaluationArguments, DataArguments)
    model = AutoModel.from_pretrained(arguments.model).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    tables = load_tables(data_args)
    if arguments.split not in tables:
        raise SystemExit(f"`--split` must be one of {', '.join(tables)}, but got {arguments.split!r}.")
    table = tables[arguments.split]

    metrics = score(model, processor, table, CUTOFFS)
    print_recalls({"model": metrics}, table, CUTOFFS)

    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(f"metrics: {folder / 'metrics.json'}")
    draw_similarity(model, processor, table, arguments.grid_size, folder / "similarity.png")


if __name__ == "__main__":
    main()
