"""What the losses need to know about other processes. Everything is the identity in a single process."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together, W (1 without `torch.distributed`)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, from 0 to W - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _GatherRows(torch.autograd.Function):
    """All processes' rows forward; backward, the sum over all processes of the gradients of this one's rows."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes  # type: ignore[attr-defined]
        # all_gather wants equal shapes: the processes' last batches may differ, so pad to the largest.
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        blocks = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(blocks, padded)
        return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        # reduce_scatter would move W times less, but gloo does not have it for every backend version.
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.sizes)[rank()], None  # type: ignore[attr-defined]


def row_counts(tensor: Tensor) -> list[int]:
    """Number of rows that each process holds, in rank order.

    Args:
        tensor: `(B, ...)`; B may differ between processes.

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
    """The mean of all processes' losses, as averaging gradients over processes needs it from each of them.

    Each process divides the sum of its own losses by the number of all processes' losses over W. The mean of these over
    processes, and of their gradients, is that of the joined batch, even if the processes differ in their numbers.

    Args:
        losses: `(N,)`; N may differ between processes.
        weights: `(N,)`, 1 for losses that count and 0 for others; all count if not given.

    Returns:
        A scalar; 0 if no process has a loss that counts.

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
    """Concatenate the rows of all processes, in rank order, with exact gradients.

    With one loss per process and gradients averaged over processes (as `DistributedDataParallel` does), the result is
    the gradient of the mean loss over the joined batch. Nothing is rescaled.

    Args:
        tensor: `(B, ...)`; B may differ between processes, the other dimensions and the type may not.
        sizes: the processes' row counts, when [`row_counts`] was already asked.

    Returns:
        `(sum of all B, ...)`; in a single process the tensor itself.

    Example:
        >>> gather_with_grad(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    if world_size() == 1:
        return tensor
    return _GatherRows.apply(tensor, sizes if sizes is not None else row_counts(tensor))
