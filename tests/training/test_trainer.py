"""Plain `transformers.Trainer` does all it should with a contrastive model."""

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from tests import tiny
from transformers import AutoModel, AutoProcessor, Trainer, TrainerCallback, TrainingArguments, set_seed

from vlmkit import DualEncoderModel
from vlmkit.data import CaptionPairs, ContrastiveCollator, UniqueGroupBatchSampler
from vlmkit.metrics import compute_retrieval_metrics, retrieval_metrics


@pytest.fixture(scope="module")
def table() -> Dataset:
    columns = {
        "image_id": [f"{row}.jpg" for row in range(12)],
        "image": [tiny.photo(seed=row) for row in range(12)],
        "captions": [[f"a {tiny.WORDS[row]}", f"the {tiny.WORDS[row]} on grass"] for row in range(12)],
    }
    features = {"image_id": Value("string"), "image": Image(), "captions": List(Value("string"))}
    return Dataset.from_dict(columns, features=Features(features))


class StopAfterTwoSteps(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_save = state.global_step >= 2


def make_trainer(table: Dataset, folder, trainer_class: type[Trainer] = Trainer, **arguments) -> Trainer:
    set_seed(0)
    model = DualEncoderModel(
        tiny.dual_encoder_config(
            text_config=tiny.text_config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
            text_features="encoder",
            freeze_text=False,
        )
    )
    processor = tiny.dual_encoder_processor()
    training_args = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=6,
        per_device_eval_batch_size=5,
        learning_rate=1e-2,
        remove_unused_columns=False,
        label_names=["group_ids"],
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **arguments,
    )
    return trainer_class(
        model,
        training_args,
        data_collator=ContrastiveCollator(processor, caption="random"),
        train_dataset=table,
        eval_dataset=CaptionPairs(table),
        processing_class=processor,
        compute_metrics=compute_retrieval_metrics,
    )


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def test_it_learns_and_evaluates_the_whole_set(table, tmp_path):
    trainer = make_trainer(table, tmp_path, num_train_epochs=20, eval_strategy="epoch")
    trainer.train()
    history = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(history) == 20
    assert history[-1] < 0.7 * history[0]
    metrics = trainer.evaluate()
    assert metrics["eval_mean_recall@5"] > 0.7  # chance: 5 of 12
    model, processor = trainer.model.eval(), trainer.processing_class
    with torch.no_grad():
        images = model.get_image_features(**processor(images=table["image"][:], return_tensors="pt")).pooler_output
        captions = [caption for captions in table["captions"] for caption in captions]
        texts = model.get_text_features(**processor(text=captions, return_tensors="pt")).pooler_output
    groups = torch.arange(12)
    expected = retrieval_metrics(
        torch.nn.functional.normalize(images),
        torch.nn.functional.normalize(texts),
        image_groups=groups,
        text_groups=groups.repeat_interleave(2),
    )
    for name, value in expected.items():  # whole-set recall, not a mean over batches of five
        assert metrics[f"eval_{name}"] == pytest.approx(value), name


def test_an_interrupted_run_ends_where_the_uninterrupted_one_does(table, tmp_path):
    whole = make_trainer(table, tmp_path / "whole", num_train_epochs=3, save_strategy="epoch")
    whole.train()
    interrupted = make_trainer(table, tmp_path / "parts", num_train_epochs=3, save_strategy="epoch")
    interrupted.add_callback(StopAfterTwoSteps())
    interrupted.train()
    assert interrupted.state.global_step == 2
    resumed = make_trainer(table, tmp_path / "parts", num_train_epochs=3, save_strategy="epoch")
    resumed.train(resume_from_checkpoint=True)
    expected, actual = weights(whole), weights(resumed)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], msg=lambda text, n=name: f"{n}: {text}")


def test_accumulation_does_not_scale_the_gradients(table, tmp_path):
    """The loss is a mean over pairs, so two equal batches accumulate to the gradient of one."""
    norms = []
    for steps in (1, 2):
        trainer = make_trainer(
            table.select([*range(6)] * steps),
            tmp_path,
            max_steps=1,
            gradient_accumulation_steps=steps,
            logging_steps=1,
            train_sampling_strategy="sequential",
        )
        trainer.data_collator = ContrastiveCollator(trainer.processing_class)  # the first caption, not a random one
        trainer.train()
        norms.append(next(entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry))
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_it_saves_the_processor_and_both_reload(table, tmp_path):
    trainer = make_trainer(table, tmp_path, max_steps=1)
    trainer.train()
    trainer.save_model()
    model, processor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    batch = ContrastiveCollator(processor)([table[0], table[1]])
    with torch.no_grad():
        expected = trainer.model.eval()(**ContrastiveCollator(trainer.processing_class)([table[0], table[1]]))
        torch.testing.assert_close(model(**batch).logits_per_image, expected.logits_per_image)


def test_a_batch_sampler_of_ours_works_in_a_trainer(table, tmp_path):
    class UniqueImagesTrainer(Trainer):
        def get_train_dataloader(self):
            sampler = UniqueGroupBatchSampler(self.train_dataset.image_ids, batch_size=self.args.train_batch_size)
            loader = torch.utils.data.DataLoader(
                self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator
            )
            return self.accelerator.prepare(loader)

    seen = []

    class Watch(ContrastiveCollator):
        def __call__(self, rows):
            seen.append([row["image_id"] for row in rows])
            return super().__call__(rows)

    trainer = make_trainer(table, tmp_path, UniqueImagesTrainer, num_train_epochs=2)
    trainer.train_dataset = CaptionPairs(table)
    trainer.data_collator = Watch(trainer.processing_class)
    trainer.train()
    assert len(seen) == 8  # 24 pairs in batches of 6, twice
    assert all(len(set(names)) == len(names) == 6 for names in seen)
    assert sorted(name for names in seen[:4] for name in names) == sorted(CaptionPairs(table).image_ids)
