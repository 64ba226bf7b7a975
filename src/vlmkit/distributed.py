"""Collective operations of the losses. In a single process, they return their inputs or local results."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes, W, which is 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0 to W - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _GatherRows(torch.autograd.Function):
    """Gather the rows of all processes. The gradient of the local rows is summed over all processes."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes  # type: ignore[attr-defined]
        # all_gather needs equal shapes, but the last batches of the processes may differ in size.
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        blocks = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(blocks, padded)
        return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        # reduce_scatter would transfer less data, but not every version of gloo supports it.
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.sizes)[rank()], None  # type: ignore[attr-defined]


def row_counts(tensor: Tensor) -> list[int]:
    """Return the number of rows of each process, in the order of the ranks.

    Args:
        tensor: `(B, ...)`. B may differ between processes.

    Example:
        >>> row_counts(torch.zeros(3, 2))
        [3]
    """
    if world_size() == 1:
        return [len(tensor)]
    counts = torch.zeros(world_size(), dtype=torch.long, device=tensor.device)
    counts[rank()] = len(tensor)
    dist.all_reduce(counts)
    return counts.tolist()


def mean_over_processes(losses: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute the contribution of this process to the mean loss over all processes.

    Each process multiplies the sum of its losses by W and divides it by the number of losses of all processes. The
    average over processes, which `DistributedDataParallel` computes for gradients, is then the mean of the joined
    batch, also if the processes have different numbers of losses.

    Args:
        losses: `(N,)`. N may differ between processes.
        weights: `(N,)`, 1 for losses to include and 0 for others. Defaults to ones.

    Returns:
        A scalar, which is 0 if all weights are 0.

    Example:
        >>> mean_over_processes(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 1.0, 0.0])).item()
        1.5
    """
    weights = torch.ones_like(losses) if weights is None else weights
    count = weights.sum()
    if world_size() > 1:
        dist.all_reduce(count)
    return (weights * losses).sum() * world_size() / count.clamp(min=1)


def gather_with_grad(tensor: Tensor, sizes: list[int] | None = None) -> Tensor:
    """Concatenate the rows of all processes in the order of the ranks, with exact gradients.

    If every process computes one loss and gradients are averaged over processes, as `DistributedDataParallel` does, the
    result is the gradient of the mean loss over the joined batch. Nothing is rescaled.

    Args:
        tensor: `(B, ...)`. B may differ between processes, but other dimensions and the data type must not.
        sizes: Output of [`row_counts`], if it is already known.

    Returns:
        `(sum of all B, ...)`. In a single process, this is the tensor itself.

    Example:
        >>> gather_with_grad(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    if world_size() == 1:
        return tensor
    return _GatherRows.apply(tensor, sizes if sizes is not None else row_counts(tensor))
