"""Score a model of either stage on held-out images.

    python examples/smolvlm/evaluate.py --model runs/qformer --datasets flickr8k --data jxie/flickr8k
    python examples/smolvlm/evaluate.py --model runs/smolvlm/merged --datasets flickr8k --data jxie/flickr8k
    python examples/smolvlm/evaluate.py --model runs/smolvlm/merged --datasets easy_vqa scenes --tasks questions

Of stage 1: Recall@K. Of stage 2: caption scores and the accuracy of answers, each beside the same model with images of
others and without images; only what it gains over these can come from looking. Predictions are written as CSV.
"""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from caption_sources import Tables
from chat_data import ChatDataArguments, load_chat_tables
from datasets import Dataset
from scores import score_retrieval
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

from vlmkit import QFormerAligner
from vlmkit.data import CAPTION_PROMPTS, answer_baselines, evaluation_split, user_message
from vlmkit.inference import embed_table, reply_to_chats
from vlmkit.metrics import caption_metrics, vqa_accuracy
from vlmkit.training import parse_arguments

CONDITIONS = ("model", "shuffled images", "no image")


@dataclass
class EvaluationArguments:
    """Which model, how it writes, and where the results go."""

    model: str = field(metadata={"help": "folder or hub id of a QFormerAligner or a SmolVLM"})
    output_dir: str = field(default="runs/smolvlm_evaluation", metadata={"help": "metrics.json, and CSV files"})
    batch_size: int = 32
    num_beams: int = field(default=1, metadata={"help": "of captions"})
    max_new_tokens: int = 30
    prompt: str = field(default=CAPTION_PROMPTS[0], metadata={"help": "that asks for a caption"})
    max_questions: int | None = field(default=None, metadata={"help": "of each data set, drawn at random"})
    dtype: Literal["float32", "bfloat16"] = "float32"


def main() -> None:
    """Score every data set that was asked for."""
    arguments, data_args = parse_arguments(EvaluationArguments, ChatDataArguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModel.from_pretrained(arguments.model, dtype=arguments.dtype).to(device).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, Any] = {}
    for name, tables in load_chat_tables(data_args, training=False).items():
        table = evaluation_split(tables)
        if isinstance(model, QFormerAligner):
            if "captions" in table.column_names:
                metrics[f"{name}/retrieval"] = score_retrieval(
                    embed_table(model, processor, table, batch_size=arguments.batch_size)
                )
            continue
        if "captions" in data_args.tasks and "captions" in table.column_names:
            metrics[f"{name}/captions"] = score_captions(
                model, processor, table, arguments, folder / f"{name}_captions"
            )
        if "questions" in data_args.tasks and "questions" in table.column_names:
            metrics[f"{name}/questions"] = score_answers(
                model, processor, tables, table, arguments, folder / f"{name}_answers"
            )
    if not metrics:
        wanted = "captions" if isinstance(model, QFormerAligner) else " or ".join(data_args.tasks)
        raise SystemExit(f"nothing to score: {' '.join(data_args.datasets)} has no {wanted}")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(f"\nwritten: {folder}")


def score_captions(
    model: PreTrainedModel, processor: ProcessorMixin, table: Dataset, arguments: EvaluationArguments, file: Path
) -> dict[str, dict[str, float]]:
    """Caption scores of each condition."""
    rows = range(len(table))
    generation = {"num_beams": arguments.num_beams, "max_new_tokens": arguments.max_new_tokens}
    replies = ask(model, processor, table, rows, [arguments.prompt] * len(table), arguments.batch_size, **generation)
    references = list(table["captions"])
    metrics = {name: caption_metrics(captions, references) for name, captions in replies.items()}
    print(f"\n{f'{len(table):,} images':26}   BLEU-4  ROUGE-L    CIDEr")
    for name, values in metrics.items():
        print(f"{name:26}{values['bleu_4']:9.1%}{values['rouge_l']:9.1%}{values['cider']:9.3f}")
    write_csv(file, {"image_id": table["image_id"], **replies, "references": map(" | ".join, references)})
    return metrics


def score_answers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    tables: Tables,
    table: Dataset,
    arguments: EvaluationArguments,
    file: Path,
) -> dict[str, dict[str, float]]:
    """The accuracy of the answers of each condition, and of guesses from the question alone."""
    asked = [
        (row, *pair)
        for row, pairs in enumerate(zip(table["questions"], table["answers"], strict=True))
        for pair in zip(*pairs, strict=True)
    ]
    count = min(arguments.max_questions or len(asked), len(asked))
    chosen = sorted(random.Random(0).sample(range(len(asked)), count))
    rows, questions, answers = (list(column) for column in zip(*(asked[place] for place in chosen), strict=True))
    generation = {"max_new_tokens": arguments.max_new_tokens}
    replies = ask(model, processor, table, rows, questions, arguments.batch_size, **generation)
    for name, guesses in answer_baselines(tables["train"], table).items():
        replies[name] = [guesses[place] for place in chosen]
    metrics = {name: vqa_accuracy(guesses, answers) for name, guesses in replies.items()}
    print(f"\n{f'{len(questions):,} questions':26} accuracy")
    for name, values in metrics.items():
        print(f"{name:26}{values['accuracy']:9.1%}")
    ids = [table["image_id"][row] for row in rows]
    write_csv(file, {"image_id": ids, "question": questions, "answer": answers, **replies})
    return metrics


def ask(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    table: Dataset,
    rows: Sequence[int],
    questions: Sequence[str],
    batch_size: int,
    **generation: Any,
) -> dict[str, list[str]]:
    """What the model says to a question about each of some rows' images: as it is, of the next row's, and of none."""
    shown = {
        "model": rows,
        "shuffled images": [(row + 1) % len(table) for row in rows],
        "no image": [None] * len(rows),
    }
    return {
        name: reply_to_chats(
            model, processor, Asked(table, shown[name], questions), batch_size=batch_size, do_sample=False, **generation
        )
        for name in CONDITIONS
    }


@dataclass
class Asked:
    """Conversations of one question each, about the image of a row of a table or about none."""

    table: Dataset
    rows: Sequence[int | None]
    questions: Sequence[str]

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, question = self.rows[index], self.questions[index]
        image = None if row is None else self.table[row]["image"]
        return {"messages": [user_message(question, image=image, has_image=row is not None)]}


def write_csv(file: Path, columns: dict[str, Any]) -> None:
    """Write columns of equal length."""
    with open(file.with_suffix(".csv"), "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


if __name__ == "__main__":
    main()
