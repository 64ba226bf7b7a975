"""Two processes that average their gradients train as one process on the joined batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests import tiny
from vlmkit import DualEncoderModel
from vlmkit.distributed import gather_with_grad, rank, row_counts, world_size

PARTS = {"even": (4, 4), "uneven": (5, 2)}


def make_model(loss: str) -> DualEncoderModel:
    torch.manual_seed(0)
    config = tiny.dual_encoder_config(
        loss=loss, freeze_vision=False, freeze_text=False, learn_temperature=True, text_features="encoder"
    )
    return DualEncoderModel(config).eval()  # without dropout, the runs must agree


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


def worker(folder: Path, parts: list[int], loss: str, groups: bool, how: str) -> None:
    torch.distributed.init_process_group("gloo")
    assert world_size() == 2
    model = wrap(make_model(loss), how)
    batch = make_batch(sum(parts), groups)
    start = sum(parts[: rank()])
    result = loss_and_gradients(model, {k: v[start : start + parts[rank()]] for k, v in batch.items()})
    torch.distributed.all_reduce(result["loss"], torch.distributed.ReduceOp.AVG)
    if rank() == 0:
        torch.save(result, folder / "result.pt")
    torch.distributed.barrier()  # nobody leaves while the other still talks
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("groups", [False, True], ids=["no-groups", "groups"])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(("loss", "how"), [("info_nce", "ddp"), ("info_nce", "fsdp2"), ("sigmoid", "ddp")])
def test_two_processes_equal_one(tmp_path, loss, how, parts, groups):
    arguments = {"folder": str(tmp_path), "parts": PARTS[parts], "loss": loss, "groups": groups, "how": how}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    root = Path(__file__).parent.parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    run = subprocess.run(
        [*torchrun, "--standalone", __file__, json.dumps(arguments)],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    two = torch.load(tmp_path / "result.pt", weights_only=True)
    one = loss_and_gradients(make_model(loss), make_batch(sum(PARTS[parts]), groups))
    assert two.keys() == one.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_one_process_is_the_identity():
    tensor = torch.rand(3, 2)
    assert world_size() == 1
    assert rank() == 0
    assert row_counts(tensor) == [3]
    assert gather_with_grad(tensor) is tensor


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    worker(Path(options.pop("folder")), **options)
