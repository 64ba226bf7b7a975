"""Ranks of matching candidates among all candidates, without ever holding the full similarity matrix."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Sorting a row costs about as much as this many passes over it.
_PASSES_PER_SORT = 128


class Matches(NamedTuple):
    """Matching candidates of each query q: `candidates[starts[q] : ends[q]]`."""

    candidates: Tensor
    starts: Tensor
    ends: Tensor

    def padded(self, queries: slice) -> tuple[Tensor, Tensor]:
        """`(q, M)` candidates, short rows filled up with their last one, and `(q, M)` booleans that mark the filler."""
        starts, ends = self.starts[queries, None], self.ends[queries, None]
        positions = starts + torch.arange(int((ends - starts).max()), device=starts.device)
        return self.candidates[positions.minimum(ends - 1)], positions >= ends


def match_by_group(query_groups: Tensor, candidate_groups: Tensor) -> Matches:
    """Candidates `(C,)` that share the group of a query `(Q,)`.

    Raises:
        ValueError: a query's group has no candidate.
    """
    sorted_groups, candidates = candidate_groups.sort()
    starts = torch.searchsorted(sorted_groups, query_groups)
    ends = torch.searchsorted(sorted_groups, query_groups, right=True)
    if (starts == ends).any():
        lonely = query_groups[starts == ends][0].item()
        raise ValueError(f"group {lonely} has a query but no candidate; leave it out or add its candidates")
    return Matches(candidates, starts, ends)


def match_by_relevance(relevant: Tensor) -> Matches:
    """Candidates that are true in a query's row of `(Q, C)` booleans; each row needs one."""
    ends = relevant.sum(dim=1).cumsum(dim=0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return Matches(relevant.nonzero()[:, 1], starts, ends)


def rank_matches_by_chunk(
    queries: Tensor, candidates: Tensor, *, matches: Matches, chunk_size: int
) -> Iterator[Tensor]:
    """[`rank_matches`] of one chunk of queries after the other."""
    # Allocated once: blocks of this size, freed between the small results, would leave holes that add up to gigabytes.
    buffers = queries.new_empty(2, min(chunk_size, len(queries)), len(candidates))
    rounding = torch.finfo(torch.float32).eps * queries.shape[1] ** 0.5
    query_norms, candidate_norms = queries.norm(dim=1), candidates.norm(dim=1)
    for start in range(0, len(queries), chunk_size):
        chunk = slice(start, start + chunk_size)
        scores, scratch = buffers[:, : len(queries[chunk])]
        torch.mm(queries[chunk], candidates.T, out=scores)
        indices, filler = matches.padded(chunk)
        # BLAS may add in another order at another place, and equal embeddings still have to tie.
        tolerance = rounding * query_norms[chunk, None] * candidate_norms[indices]
        yield rank_matches(scores, scratch=scratch, matches=indices, filler=filler, tolerance=tolerance)


def rank_matches(
    scores: Tensor, *, scratch: Tensor, matches: Tensor, filler: Tensor, tolerance: Tensor | float = 0.0
) -> Tensor:
    """Ranks of each query's matches among all candidates, ties against the match.

    Args:
        scores: `(q, C)`, overwritten.
        scratch: `(q, C)`, overwritten.
        matches: `(q, M)` indices of candidates.
        filler: `(q, M)`, true for matches that only fill up the row.
        tolerance: `(q, M)`, by how much another candidate may score less than the match and count as tied.

    Returns:
        `(q, M)` float64 on the CPU, ascending from 1, infinity for filler.
    """
    thresholds = scores.gather(1, matches) - tolerance
    others = _count_at_least(scores.scatter_(1, matches, float("-inf")), thresholds, scratch)
    others = others.double().cpu().masked_fill(filler.cpu(), float("inf"))
    # The i-th best match is the one with the i-th fewest others before it.
    return others.sort(dim=1).values + torch.arange(1, others.shape[1] + 1)


def _count_at_least(scores: Tensor, thresholds: Tensor, scratch: Tensor) -> Tensor:
    """How many of a row's scores `(q, C)` reach each of its thresholds `(q, M)`: `(q, M)`."""
    if thresholds.shape[1] > _PASSES_PER_SORT:
        return scores.shape[1] - torch.searchsorted(scores.sort(dim=1).values, thresholds)
    # Several times faster in float than in bool, and exact up to 2**24 candidates.
    counts = [torch.ge(scores, column[:, None], out=scratch).sum(dim=1) for column in thresholds.unbind(dim=1)]
    return torch.stack(counts, dim=1)
