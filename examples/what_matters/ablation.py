"""Compare designs of "What matters when building vision-language models?" at a small scale.

    python examples/what_matters/ablation.py --seeds 0 1 2
    python examples/what_matters/ablation.py --studies captions --data jxie/flickr8k --batch_size 8 --seeds 0

Most studies use synthetic scenes. Their backbones are trained first: a small language model on texts about scenes, and
a small vision tower on patch classification. The study `captions` uses photographs and pretrained backbones. All rows
of a study have the same data, steps and seeds.

An interrupted run resumes: results of finished cells are read from disk. Several processes can share an output folder
if they use different seeds. The report compares the rows with baselines that do not use the image, and with the
averages published in the study.
"""

import dataclasses
import json
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from backbones import LANGUAGE_MODELS, TOWERS, build_once, train_language_model, train_vision_tower
from chat_tables import ChatDataArguments, load_chat_tables
from costs import peak_memory, prefill_milliseconds, reset_peak_memory
from datasets import DatasetDict
from divergence import StopOnDivergence
from report import write_report
from rows import STUDIES, TEXT_ONLY, Design
from tasks import Chats, Task, WithoutImages, caption_task, scene_task
from torch import nn
from transformers import ProcessorMixin, Trainer, set_seed

from vlmkit import SmolVLM, VlmkitSmolVLMProcessor
from vlmkit.data import ChatCollator, evaluation_split, load_detailed_scenes
from vlmkit.inference import reply_to_chats
from vlmkit.modules.fingerprint import text_fingerprint
from vlmkit.training import TableTrainingArguments, adapt_backbones, check_single_gpu, parse_arguments

SCENE_RECIPE = ("num_train", "num_objects", "num_questions", "steps", "batch_size", "learning_rate", "lora_rank")
SCENE_BACKBONES = ("language_model_steps", "vision_tower_steps")
CAPTION_RECIPE = (
    "dataset",
    "data",
    "num_questions",
    "steps",
    "batch_size",
    "learning_rate",
    "lora_rank",
    "vision",
    "text",
)


@dataclass
class AblationArguments:
    """Studies, data and hyperparameters."""

    studies: list[str] = field(
        default_factory=lambda: [name for name in STUDIES if name != "captions"],
        metadata={"help": f"Studies to run: {', '.join(STUDIES)}."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Training seeds of every row."})
    output_dir: str = "runs/what_matters"
    num_train: int = field(default=3000, metadata={"help": "Number of synthetic training scenes."})
    num_objects: list[int] = field(
        default_factory=lambda: [1], metadata={"help": "Numbers of objects per scene, drawn at random."}
    )
    num_questions: int = field(
        default=600, metadata={"help": "Number of questions about held-out images. For captions, number of images."}
    )
    steps: int = field(default=300, metadata={"help": "Number of training steps of every row."})
    batch_size: int = field(
        default=16, metadata={"help": "Images per batch, each with all its questions or one caption."}
    )
    learning_rate: float = 1e-3
    lora_rank: int = 16
    language_model_steps: int = field(
        default=500, metadata={"help": "Training steps of the language models for scenes."}
    )
    vision_tower_steps: int = field(default=800, metadata={"help": "Training steps of the vision towers for scenes."})
    dataset: Literal["flickr8k", "coco"] = field(
        default="flickr8k", metadata={"help": "Dataset of the study captions."}
    )
    data: str = field(default="jxie/flickr8k", metadata={"help": "Folder or hub id of the dataset of captions."})
    vision: str = field(default="google/vit-base-patch16-224", metadata={"help": "Image model of the study captions."})
    text: str = field(
        default="HuggingFaceTB/SmolLM2-135M-Instruct", metadata={"help": "Language model of the study captions."}
    )


def main() -> None:
    """Run the cells without a saved result, then write the report over all cells."""
    (arguments,) = parse_arguments(AblationArguments)
    if unknown := set(arguments.studies) - set(STUDIES):
        raise SystemExit(
            f"`--studies` must be one or more of {', '.join(STUDIES)}, but got {', '.join(sorted(unknown))}."
        )
    folder = Path(arguments.output_dir)
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    backbones = {"vision_given": arguments.vision, "text_given": arguments.text}
    tasks: dict[str, Task] = {}
    if set(arguments.studies) - {"captions"}:
        backbones |= train_backbones(folder, arguments)
        tables = load_detailed_scenes(num_train=arguments.num_train, num_objects=arguments.num_objects)
        tasks["scenes"] = scene_task(
            tables, arguments.num_questions, select(arguments, *SCENE_RECIPE, *SCENE_BACKBONES)
        )
    if "captions" in arguments.studies:
        tables = load_captions(arguments)
        tasks["captions"] = caption_task(tables, arguments.num_questions, select(arguments, *CAPTION_RECIPE))
    results = []
    for seed in arguments.seeds:
        for study in arguments.studies:
            task = tasks["captions" if study == "captions" else "scenes"]
            for row, design in STUDIES[study].items():
                print(f"{study}: {row}, seed {seed}", flush=True)
                result = cell(design, seed, folder, backbones, task, arguments)
                if not task.controls:
                    text_only = cell(TEXT_ONLY, seed, folder, backbones, task, arguments)
                    result["metrics"]["text_only"] = text_only["metrics"]["accuracy"]
                results.append({"study": study, "row": row, "seed": seed, **result})
    write_report(results, folder)
    print((folder / "report.md").read_text())


def load_captions(arguments: AblationArguments) -> DatasetDict:
    """Load captioned images for training and evaluation.

    Raises:
        SystemExit: If the dataset has no evaluation split.
    """
    data_args = ChatDataArguments(datasets=[arguments.dataset], data=arguments.data, tasks=["captions"])
    [tables] = load_chat_tables(data_args).values()
    if not {"test", "validation"} & tables.keys():
        raise SystemExit(f"{arguments.data} must contain a validation or test split, but got {', '.join(tables)}.")
    return DatasetDict(train=tables["train"], test=evaluation_split(tables))


def select(arguments: AblationArguments, *names: str) -> dict[str, Any]:
    """Return a dictionary of the named arguments."""
    return {name: getattr(arguments, name) for name in names}


def train_backbones(folder: Path, arguments: AblationArguments) -> dict[str, str]:
    """Train the backbones for scenes that do not exist yet, and return the folders of all backbones by name."""
    folders = {}
    (folder / "backbones").mkdir(exist_ok=True)
    for size in LANGUAGE_MODELS:
        steps, counts = arguments.language_model_steps, arguments.num_objects
        path = folder / "backbones" / f"text_{size}_{steps}_{'_'.join(map(str, counts))}"
        train = partial(train_language_model, size=size, steps=steps, num_objects=counts)
        folders[f"text_{size}"] = build_once(path, train)
    for size in TOWERS:
        steps = arguments.vision_tower_steps
        path = folder / "backbones" / f"vision_{size}_{steps}"
        folders[f"vision_{size}"] = build_once(path, partial(train_vision_tower, size=size, steps=steps))
    return {name: str(path) for name, path in folders.items()}


def cell(
    design: Design, seed: int, folder: Path, backbones: dict[str, str], task: Task, arguments: AblationArguments
) -> dict[str, Any]:
    """Return the result of a design and a seed. It is computed once, also if several studies contain the design."""
    fingerprint = text_fingerprint(json.dumps([dataclasses.asdict(design), task.recipe]), size=6)
    path = folder / "cells" / f"{fingerprint}--{seed}.json"
    if not path.exists():
        result = run_cell(design, seed, folder, backbones, task, arguments)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(result, indent=2))
        os.replace(unfinished, path)
    return json.loads(path.read_text())


def run_cell(
    design: Design, seed: int, folder: Path, backbones: dict[str, str], task: Task, arguments: AblationArguments
) -> dict[str, Any]:
    """Train a design and evaluate its replies about held-out images."""
    start = time.perf_counter()
    set_seed(seed)
    model, processor = build(design, backbones)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    # A convolutional tower without linear layers for LoRA is frozen.
    is_linear = any(isinstance(layer, nn.Linear) for layer in model.get_encoder("image").modules())
    vision_mode = "frozen" if design.mode == "lora" and not is_linear else design.mode
    ranks = {"rank": arguments.lora_rank, "alpha": 2 * arguments.lora_rank}
    adapted = adapt_backbones(model, vision=vision_mode, text=design.mode, **ranks)
    num_trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    divergence = StopOnDivergence()
    reset_peak_memory()
    trainer = Trainer(
        adapted,
        training_arguments(folder / "trainer", seed, arguments),
        data_collator=ChatCollator(processor),
        train_dataset=chats_for(design, task.train),
        callbacks=[divergence],
    )
    trained = trainer.train()
    peak_mb = peak_memory()
    model = adapted.merge_and_unload() if hasattr(adapted, "merge_and_unload") else adapted
    requests, generation = chats_for(design, task.requests), {"max_new_tokens": task.max_new_tokens, "do_sample": False}
    metrics = task.score(reply_to_chats(model, processor, requests, batch_size=25, **generation))
    score = next(iter(metrics))
    for name, chats in task.controls.items():
        metrics[name] = task.score(reply_to_chats(model, processor, chats, batch_size=25, **generation))[score]
    return {
        "design": dataclasses.asdict(design),
        "modes": {"vision": vision_mode, "text": design.mode},
        "metrics": metrics,
        "train_loss": trained.training_loss,
        "diverged": {"step": divergence.step, "reason": divergence.reason} if divergence.diverged else None,
        "parameters": {"total": num_parameters, "trained": num_trained},
        "image_tokens": mean_image_tokens(processor, requests),
        "prefill_ms": prefill_milliseconds(model, processor, requests),
        "peak_mb": peak_mb,
        "seconds": time.perf_counter() - start,
        "num_questions": len(requests),
        "steps": trainer.state.global_step,
        "device": str(model.device),
    }


def build(design: Design, backbones: dict[str, str]) -> tuple[SmolVLM, VlmkitSmolVLMProcessor]:
    """Build the untrained model of a design and its processor."""
    vision, text = backbones[f"vision_{design.vision}"], backbones[f"text_{design.text}"]
    processor = VlmkitSmolVLMProcessor.from_vision_text_pretrained(vision, text, **design.processor_options())
    model = SmolVLM.from_vision_text_pretrained(vision, text, processor=processor, **design.model_options())
    return model, processor


def chats_for(design: Design, chats: Chats) -> Chats:
    """Return conversations with images, or without images for a text-only design."""
    return chats if design.use_images else WithoutImages(chats)


def training_arguments(folder: Path, seed: int, arguments: AblationArguments) -> TableTrainingArguments:
    """Return the training arguments of all rows."""
    training_args = TableTrainingArguments(
        output_dir=str(folder),
        max_steps=arguments.steps,
        per_device_train_batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        weight_decay=0.01,
        warmup_steps=20,
        lr_scheduler_type="cosine",
        logging_steps=10,
        logging_nan_inf_filter=False,
        label_names=["labels"],
        save_strategy="no",
        seed=seed,
    )
    check_single_gpu(training_args)
    return training_args


def mean_image_tokens(processor: ProcessorMixin, chats: Chats, count: int = 50) -> float:
    """Compute the mean number of image tokens over the first `count` conversations."""
    rows = range(min(count, len(chats)))
    texts = [
        processor.apply_chat_template([chats[row]["messages"]], tokenize=True, return_dict=True)["input_ids"][0]
        for row in rows
    ]
    return sum(list(text).count(processor.image_token_id) for text in texts) / len(rows)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
