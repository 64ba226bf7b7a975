"""Evaluate a model of stage 1 or stage 2 on held-out images.

    python examples/smolvlm/evaluate.py --model runs/qformer --datasets flickr8k --data jxie/flickr8k
    python examples/smolvlm/evaluate.py --model runs/smolvlm/merged --datasets flickr8k --data jxie/flickr8k
    python examples/smolvlm/evaluate.py --model runs/smolvlm/merged --datasets easy_vqa scenes --tasks questions

Models of stage 1 are evaluated by Recall@K, models of stage 2 by caption metrics and answer accuracy. For stage 2, the
same model is also evaluated with shuffled images and without images. Only the gain over these two controls shows that
the model uses the image. Predictions are written to CSV files.
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
    """Model, decoding and output folder."""

    model: str = field(metadata={"help": "Folder or hub id of a QFormerAligner or a SmolVLM."})
    output_dir: str = field(
        default="runs/smolvlm_evaluation", metadata={"help": "Folder for metrics.json and the CSV files."}
    )
    batch_size: int = 32
    num_beams: int = field(default=1, metadata={"help": "Number of beams for captions."})
    max_new_tokens: int = 30
    prompt: str = field(default=CAPTION_PROMPTS[0], metadata={"help": "Request for a caption."})
    max_questions: int | None = field(
        default=None, metadata={"help": "Maximum number of randomly selected questions per dataset."}
    )
    dtype: Literal["float32", "bfloat16"] = "float32"


def main() -> None:
    """Evaluate the model on every selected dataset."""
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
        required = "captions" if isinstance(model, QFormerAligner) else " or ".join(data_args.tasks)
        raise SystemExit(
            f"At least one dataset must contain {required}, but got {' '.join(data_args.datasets)}. Change "
            "`--datasets` or `--tasks`."
        )
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(f"\noutput folder: {folder}")


def score_captions(
    model: PreTrainedModel, processor: ProcessorMixin, table: Dataset, arguments: EvaluationArguments, file: Path
) -> dict[str, dict[str, float]]:
    """Compute the caption metrics of the model and of both controls."""
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
    """Compute the answer accuracy of the model, of both controls and of baselines that use only the question."""
    asked = [
        (row, *pair)
        for row, pairs in enumerate(zip(table["questions"], table["answers"], strict=True))
        for pair in zip(*pairs, strict=True)
    ]
    count = min(arguments.max_questions or len(asked), len(asked))
    chosen = sorted(random.Random(0).sample(range(len(asked)), count))
    rows, questions, answers = (list(column) for column in zip(*(asked[index] for index in chosen), strict=True))
    generation = {"max_new_tokens": arguments.max_new_tokens}
    replies = ask(model, processor, table, rows, questions, arguments.batch_size, **generation)
    for name, guesses in answer_baselines(tables["train"], table).items():
        replies[name] = [guesses[index] for index in chosen]
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
    """Generate replies to questions with the image of the row, with the image of the next row, and without an image."""
    image_rows = {
        "model": rows,
        "shuffled images": [(row + 1) % len(table) for row in rows],
        "no image": [None] * len(rows),
    }
    return {
        name: reply_to_chats(
            model,
            processor,
            Questions(table, image_rows[name], questions),
            batch_size=batch_size,
            do_sample=False,
            **generation,
        )
        for name in CONDITIONS
    }


@dataclass
class Questions:
    """Conversations with one question each, about the image of a table row or without an image.

    Args:
        table: Table of images.
        rows: Row of the image of each question, or `None` for no image.
        questions: Questions.
    """

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
    """Write columns of equal length to a CSV file."""
    with open(file.with_suffix(".csv"), "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


if __name__ == "__main__":
    main()
