"""Ranks of matching candidates among all candidates, computed without the full similarity matrix."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Number of passes over a row that take as long as sorting it.
_PASSES_PER_SORT = 128


class Matches(NamedTuple):
    """Matching candidates of all queries. Query q matches `candidates[starts[q] : ends[q]]`."""

    candidates: Tensor
    starts: Tensor
    ends: Tensor

    def padded(self, queries: slice) -> tuple[Tensor, Tensor]:
        """Return candidates `(q, M)`, padded with the last one of each row, and a mask `(q, M)` of the padding."""
        starts, ends = self.starts[queries, None], self.ends[queries, None]
        positions = starts + torch.arange(int((ends - starts).max()), device=starts.device)
        return self.candidates[positions.minimum(ends - 1)], positions >= ends


def match_by_group(query_groups: Tensor, candidate_groups: Tensor) -> Matches:
    """Match queries `(Q,)` and candidates `(C,)` of the same group.

    Raises:
        ValueError: If the group of a query does not contain a candidate.
    """
    sorted_groups, candidates = candidate_groups.sort()
    starts = torch.searchsorted(sorted_groups, query_groups)
    ends = torch.searchsorted(sorted_groups, query_groups, right=True)
    if (starts == ends).any():
        lonely = query_groups[starts == ends][0].item()
        raise ValueError(f"Group {lonely} must have a candidate for its query. Add one, or remove the query.")
    return Matches(candidates, starts, ends)


def match_by_relevance(relevant: Tensor) -> Matches:
    """Match queries and candidates by a boolean matrix `(Q, C)` with at least one match in each row."""
    ends = relevant.sum(dim=1).cumsum(dim=0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return Matches(relevant.nonzero()[:, 1], starts, ends)


def rank_matches_by_chunk(
    queries: Tensor, candidates: Tensor, *, matches: Matches, chunk_size: int
) -> Iterator[Tensor]:
    """Yield the output of [`rank_matches`] for one chunk of queries after another."""
    # Allocated once, because freed blocks of this size would fragment the memory by gigabytes.
    buffers = queries.new_empty(2, min(chunk_size, len(queries)), len(candidates))
    rounding = torch.finfo(torch.float32).eps * queries.shape[1] ** 0.5
    query_norms, candidate_norms = queries.norm(dim=1), candidates.norm(dim=1)
    for start in range(0, len(queries), chunk_size):
        chunk = slice(start, start + chunk_size)
        scores, scratch = buffers[:, : len(queries[chunk])]
        torch.mm(queries[chunk], candidates.T, out=scores)
        indices, filler = matches.padded(chunk)
        # The order of summation in BLAS may depend on the position, but equal embeddings must tie.
        tolerance = rounding * query_norms[chunk, None] * candidate_norms[indices]
        yield rank_matches(scores, scratch=scratch, matches=indices, filler=filler, tolerance=tolerance)


def rank_matches(
    scores: Tensor, *, scratch: Tensor, matches: Tensor, filler: Tensor, tolerance: Tensor | float = 0.0
) -> Tensor:
    """Compute the ranks of the matches of each query among all candidates. Ties count against the match.

    Args:
        scores: `(q, C)`, scores of all candidates, which are overwritten.
        scratch: `(q, C)`, buffer, which is overwritten.
        matches: `(q, M)`, indices of matching candidates.
        filler: `(q, M)`, true for padding in `matches`.
        tolerance: `(q, M)`, difference in score up to which a candidate ties with a match.

    Returns:
        `(q, M)` float64 on the CPU, in ascending order from 1, with infinity for padding.
    """
    thresholds = scores.gather(1, matches) - tolerance
    others = _count_at_least(scores.scatter_(1, matches, float("-inf")), thresholds, scratch)
    others = others.double().cpu().masked_fill(filler.cpu(), float("inf"))
    # The i-th best match has the i-th smallest number of other candidates before it.
    return others.sort(dim=1).values + torch.arange(1, others.shape[1] + 1)


def _count_at_least(scores: Tensor, thresholds: Tensor, scratch: Tensor) -> Tensor:
    """Count `(q, M)` the scores `(q, C)` of each row that reach each of its thresholds `(q, M)`."""
    if thresholds.shape[1] > _PASSES_PER_SORT:
        return scores.shape[1] - torch.searchsorted(scores.sort(dim=1).values, thresholds)
    # float is several times faster than bool, and exact up to 2**24 candidates.
    counts = [torch.ge(scores, column[:, None], out=scratch).sum(dim=1) for column in thresholds.unbind(dim=1)]
    return torch.stack(counts, dim=1)
