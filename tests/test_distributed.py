"""Two processes that average their gradients train as one process on the joined batch."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests import tiny
from vlmkit import DualEncoderModel, PairedCifarAligner, QFormerAligner
from vlmkit.distributed import gather_with_grad, mean_over_processes, rank, row_counts, world_size
from vlmkit.losses import MatchingPairs, matching_loss

PARTS = {"even": (4, 4), "uneven": (5, 2)}
CONTRASTIVE = {
    f"{loss}-{how}-{parts}-{'groups' if groups else 'no groups'}": (loss, how, PARTS[parts], groups)
    for loss, how in (("info_nce", "ddp"), ("info_nce", "fsdp2"), ("sigmoid", "ddp"))
    for parts in PARTS
    for groups in (False, True)
}
JUDGED_PARTS = [3, 6]  # three combinations of one pair and of two


class PairJudge(torch.nn.Module):
    """Judges given combinations of image and text by their features."""

    def __init__(self):
        super().__init__()
        self.score = torch.nn.Linear(4, 1)

    def forward(self, features: torch.Tensor, **pairs: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=matching_loss(self.score(features).squeeze(1), MatchingPairs(**pairs)))


def make_model(loss: str) -> DualEncoderModel:
    torch.manual_seed(0)
    config = tiny.dual_encoder_config(
        loss=loss, freeze_vision=False, freeze_text=False, learn_temperature=True, text_features="encoder"
    )
    return DualEncoderModel(config).eval()  # without dropout, the runs must agree


def make_aligner(loss: str) -> PairedCifarAligner:
    torch.manual_seed(0)
    extras = {"learn_temperature": True, "swap_loss_weight": 0.5, "swap_margin": 0.9, "class_loss_weight": 0.5}
    smoothing = {"label_smoothing": 0.1} if loss == "full_bank" else {}
    model = PairedCifarAligner(tiny.paired_cifar_config(loss=loss, **extras, **smoothing)).eval()
    tiny.build_caption_bank(model)
    return model


def make_qformer_aligner() -> QFormerAligner:
    torch.manual_seed(0)
    weights = {"matching_loss_weight": 1.0, "captioning_loss_weight": 1.0}
    model = QFormerAligner(tiny.qformer_aligner_config(freeze_vision=False, **weights)).eval()
    torch.nn.init.constant_(model.captioning_head.norm.weight, 10.0)  # some words are much harder than others
    return model


def make_captions(size: int) -> dict[str, torch.Tensor]:
    """Captions that differ in length, of one image: no process and no joined batch has wrong pairs to match."""
    batch = {**make_batch(size, groups=False), "group_ids": torch.zeros(size, dtype=torch.long)}
    lengths = 1 + torch.arange(size) % 5
    return {**batch, "attention_mask": (torch.arange(5) < lengths[:, None]).long()}


def make_pair_judge() -> PairJudge:
    torch.manual_seed(0)
    return PairJudge()


def make_judged_pairs() -> dict[str, torch.Tensor]:
    """A batch of one pair, which has no wrong ones, and a batch of two pairs."""
    generator = torch.Generator().manual_seed(1)
    return {
        "features": torch.randn(9, 4, generator=generator),
        "image_rows": torch.tensor([0, 0, 0, 0, 1, 0, 1, 1, 0]),
        "text_rows": torch.tensor([0, 0, 0, 0, 1, 1, 0, 0, 1]),
        "targets": torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 0, 0]),
        "weights": torch.tensor([1.0, 0, 0, 1, 1, 1, 1, 1, 1]),
    }


def make_pairs(size: int, loss: str) -> dict[str, torch.Tensor]:
    """Pairs of which some share a caption across the processes; for the whole bank, of mixed images."""
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.rand(size, 3, 16, 32, generator=generator)
    if loss == "in_batch":
        return {"pixel_values": pixel_values, "caption_ids": torch.arange(size) % 3}
    ids = torch.randint(9, (size, 4), generator=generator)
    weights = torch.rand(size, 4, generator=generator)
    return {"pixel_values": pixel_values, "caption_ids": ids, "caption_weights": weights / weights.sum(1, keepdim=True)}


def make_batch(size: int, groups: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    batch = {
        "pixel_values": torch.rand(size, 3, 32, 32, generator=generator),
        "input_ids": torch.randint(2, 99, (size, 5), generator=generator),
    }
    if groups:
        batch["group_ids"] = torch.arange(size) % 3  # groups reach across the processes
    return batch


def wrap(model: DualEncoderModel, how: str) -> torch.nn.Module:
    if how == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (world_size(),))
    for layer in model.text_tower.backbone.h:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())  # not silently left whole
    return model


def loss_and_gradients(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    loss = model(**batch).loss
    loss.backward()
    gradients = {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.requires_grad}
    whole = {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in gradients.items()}
    return {"loss": loss.detach(), **whole}


def contrastive_worker(folder: Path) -> None:
    results = {
        name: own_part(wrap(make_model(loss), how), make_batch(sum(parts), groups), parts)
        for name, (loss, how, parts, groups) in CONTRASTIVE.items()
    }
    if rank() == 0:
        torch.save(results, folder / "result.pt")


def caption_bank_worker(folder: Path) -> None:
    results = {
        f"{loss}-{name}": own_part(wrap(make_aligner(loss), "ddp"), make_pairs(sum(parts), loss), parts)
        for loss in ("in_batch", "full_bank")
        for name, parts in PARTS.items()
    }
    if rank() == 0:
        torch.save(results, folder / "result.pt")


def multimodal_worker(folder: Path) -> None:
    results = {
        name: own_part(wrap(make_qformer_aligner(), "ddp"), make_captions(sum(parts)), parts)
        for name, parts in PARTS.items()
    }
    results["matching"] = own_part(wrap(make_pair_judge(), "ddp"), make_judged_pairs(), JUDGED_PARTS)
    if rank() == 0:
        torch.save(results, folder / "result.pt")


WORKERS = {"contrastive": contrastive_worker, "caption_bank": caption_bank_worker, "multimodal": multimodal_worker}


def own_part(model: torch.nn.Module, batch: dict[str, torch.Tensor], parts: list[int]) -> dict[str, torch.Tensor]:
    """The mean loss and the gradients, if each process has its part of the batch."""
    start = sum(parts[: rank()])
    result = loss_and_gradients(model, {k: v[start : start + parts[rank()]] for k, v in batch.items()})
    torch.distributed.all_reduce(result["loss"], torch.distributed.ReduceOp.AVG)
    return result


def in_two_processes(folder: Path, worker: str) -> dict:
    """What the first of two workers saves."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    root = Path(__file__).parent.parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    run = subprocess.run(
        [*torchrun, "--standalone", __file__, worker, str(folder)],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(folder / "result.pt", weights_only=True)


def assert_equal(two: dict[str, torch.Tensor], one: dict[str, torch.Tensor]) -> None:
    assert two.keys() == one.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(scope="module")
def contrastive(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    """All cases in one pair of processes, which take long to start."""
    return in_two_processes(tmp_path_factory.mktemp("contrastive"), "contrastive")


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_two_processes_equal_one(contrastive, name):
    loss, _, parts, groups = CONTRASTIVE[name]
    assert_equal(contrastive[name], loss_and_gradients(make_model(loss), make_batch(sum(parts), groups)))


def test_two_processes_equal_one_with_a_caption_bank(tmp_path):
    two = in_two_processes(tmp_path, "caption_bank")
    assert two.keys() == {"in_batch-even", "in_batch-uneven", "full_bank-even", "full_bank-uneven"}
    for name, result in two.items():
        loss, _, parts = name.partition("-")
        assert_equal(result, loss_and_gradients(make_aligner(loss), make_pairs(sum(PARTS[parts]), loss)))


def test_two_processes_equal_one_in_matching_and_captioning(tmp_path):
    two = in_two_processes(tmp_path, "multimodal")
    assert_equal(two.pop("matching"), loss_and_gradients(make_pair_judge(), make_judged_pairs()))
    assert two.keys() == PARTS.keys()
    for name, result in two.items():
        assert_equal(result, loss_and_gradients(make_qformer_aligner(), make_captions(sum(PARTS[name]))))


def test_the_mean_of_one_process_is_of_the_losses_that_count():
    losses = torch.tensor([1.0, 2.0, 6.0])
    assert mean_over_processes(losses).item() == 3
    assert mean_over_processes(losses, torch.tensor([1.0, 1.0, 0.0])).item() == 1.5
    assert mean_over_processes(losses, torch.zeros(3)).item() == mean_over_processes(losses[:0]).item() == 0


def test_one_process_is_the_identity():
    tensor = torch.rand(3, 2)
    assert world_size() == 1
    assert rank() == 0
    assert row_counts(tensor) == [3]
    assert gather_with_grad(tensor) is tensor


if __name__ == "__main__":
    worker_name, folder_name = sys.argv[1:]
    torch.distributed.init_process_group("gloo")
    assert world_size() == 2
    WORKERS[worker_name](Path(folder_name))
    torch.distributed.barrier()  # nobody leaves while the other still talks
    torch.distributed.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # all is saved; torch's threads sometimes abort an interpreter that shuts down slowly
