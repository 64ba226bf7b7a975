"""Pushes and loads with the hub that `HF_ENDPOINT` names, and prints what it found as one line of JSON.

HF_ENDPOINT=http://127.0.0.1:... python tests/hub_client.py <empty folder>
"""

import json
import sys
from pathlib import Path

import torch
from huggingface_hub import HfApi
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments, pipeline

from tests import tiny
from vlmkit import DualEncoderModel, PairedCifarAligner

DATA = "Three drawn sentences."
METRICS = {"text_to_image/recall@1": 0.123456}


def loss_of(model: torch.nn.Module) -> float:
    with torch.no_grad():
        return model(**tiny.dual_encoder_inputs()).loss.item()


def zero_shot(model: DualEncoderModel | str, **parts: object) -> list[float]:
    classify = pipeline("zero-shot-image-classification", model=model, **parts)
    answers = classify(tiny.photo(), candidate_labels=["circle", "square"], hypothesis_template="a {}")
    return [answer["score"] for answer in answers]


def push_and_load(folder: Path) -> dict:
    """A model with a description, and its processor, to `me/tiny`."""
    model, processor = DualEncoderModel(tiny.dual_encoder_config()).eval(), tiny.dual_encoder_processor()
    model.describe(data=DATA, metrics=METRICS)
    model.push_to_hub("me/tiny")
    processor.push_to_hub("me/tiny")
    torch.save(tiny.dual_encoder_inputs(), folder / "inputs.pt")
    parts = {"image_processor": processor.image_processor, "tokenizer": processor.tokenizer}
    return {
        "loss": [loss_of(model), loss_of(AutoModel.from_pretrained("me/tiny"))],
        "zero-shot": [zero_shot(model, **parts), zero_shot("me/tiny")],
        "processor": [processor.to_dict(), AutoProcessor.from_pretrained("me/tiny").to_dict()],
    }


def push_aligner() -> dict:
    """A model with a caption bank, and its processor, to `me/pairs`."""
    model, processor = PairedCifarAligner(tiny.paired_cifar_config()).eval(), tiny.paired_cifar_processor()
    tiny.build_caption_bank(model)
    model.push_to_hub("me/pairs")
    processor.push_to_hub("me/pairs")
    pairs = [[tiny.photo(), tiny.photo(seed=1)]]
    predictions = [
        parts[0].predict_captions(**parts[1](images=pairs, return_tensors="pt"))
        for parts in (
            (model, processor),
            (AutoModel.from_pretrained("me/pairs"), AutoProcessor.from_pretrained("me/pairs")),
        )
    ]
    return {"captions": predictions}


def save_with_push(folder: Path) -> dict:
    """`save_pretrained(push_to_hub=True)` of a model, and of a processor alone."""
    model = DualEncoderModel(tiny.dual_encoder_config()).eval()
    model.save_pretrained(folder / "saved", push_to_hub=True, repo_id="me/saved")
    tiny.dual_encoder_processor().save_pretrained(folder / "processor", push_to_hub=True, repo_id="me/processor")
    return {"loss": [loss_of(model), loss_of(AutoModel.from_pretrained("me/saved"))]}


def edit_and_push_again() -> None:
    """The owner of `me/edited` writes into its card and pushes another model."""
    tiny.dual_encoder_processor().push_to_hub("me/edited")  # brings transformers' generic card
    DualEncoderModel(tiny.dual_encoder_config()).push_to_hub("me/edited")
    api = HfApi()
    card = Path(api.hf_hub_download("me/edited", "README.md")).read_text(encoding="utf-8")
    edited = f"{card}\nWritten by hand."
    api.upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id="me/edited")
    DualEncoderModel(tiny.dual_encoder_config()).push_to_hub("me/edited")


def train_and_push(folder: Path) -> dict:
    """Two steps of transformers' Trainer, pushed to `me/trained`."""
    inputs = tiny.dual_encoder_inputs()
    rows = [{name: values[row] for name, values in inputs.items()} for row in range(len(tiny.SENTENCES))]
    arguments = TrainingArguments(
        folder / "run", max_steps=2, push_to_hub=True, hub_model_id="me/trained", report_to="none", disable_tqdm=True
    )
    trainer = Trainer(
        DualEncoderModel(tiny.dual_encoder_config()),
        arguments,
        train_dataset=rows,
        processing_class=tiny.dual_encoder_processor(),
    )
    trainer.train()
    trainer.push_to_hub()
    zero_shot("me/trained")
    return {"loss": [loss_of(trainer.model.eval()), loss_of(AutoModel.from_pretrained("me/trained"))]}


if __name__ == "__main__":
    work = Path(sys.argv[1])
    torch.manual_seed(0)
    edit_and_push_again()
    results = {"push": push_and_load(work), "save": save_with_push(work), "train": train_and_push(work)}
    print(json.dumps({**results, "pairs": push_aligner()}))
