"""Embeddings as points in the plane."""

import numpy as np
import torch
from torch import Tensor

from vlmkit.validation import check_choice


def project_embeddings(embeds: Tensor | np.ndarray, *, method: str = "pca", seed: int = 0) -> np.ndarray:
    """Two coordinates for each embedding, such that close embeddings tend to be close points.

    "pca" keeps the two directions of largest variance: distances can be trusted as far as these directions go. "tsne"
    keeps neighbours together and shows clusters, but the distances between clusters mean nothing. Embeddings that shall
    be compared are projected in one call.

    Args:
        embeds: `(N, D)`, N at least 3 and D at least 2.
        method: "pca" or "tsne"; "tsne" needs scikit-learn, and minutes for 10,000 points.
        seed: of "tsne".

    Returns:
        `(N, 2)` float64. The sign of a "pca" coordinate is such that its largest absolute value is positive.

    Raises:
        ValueError: the method is unknown; the embeddings are too few, not finite or not `(N, D)`.
        ImportError: "tsne" without scikit-learn.

    References:
        van der Maaten and Hinton, "Visualizing Data using t-SNE" (JMLR 2008).

    Example:
        >>> points = project_embeddings(np.array([[0.0, 0.0, 1.0], [3.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))
        >>> points.shape
        (3, 2)
    """
    check_choice("method", method, ("pca", "tsne"))
    rows = torch.as_tensor(embeds).detach().double().cpu().numpy()
    if rows.ndim != 2 or len(rows) < 3 or rows.shape[1] < 2 or not np.isfinite(rows).all():
        raise ValueError(f"embeds {rows.shape} must be finite, at least 3 rows of width 2 or more")
    return _pca(rows) if method == "pca" else _tsne(rows, seed)


def _pca(rows: np.ndarray) -> np.ndarray:
    left, scales, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    points = left[:, :2] * scales[:2]
    farthest = points[np.abs(points).argmax(axis=0), [0, 1]]
    return points * np.where(farthest < 0, -1, 1)


def _tsne(rows: np.ndarray, seed: int) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError('method "tsne" needs scikit-learn: pip install scikit-learn, or choose "pca"') from error
    # The perplexity, about the number of neighbours that count, must be below the number of points.
    tsne = TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=seed)
    return tsne.fit_transform(rows).astype(np.float64)
