"""Projection of embeddings to two dimensions."""

import numpy as np
import torch
from torch import Tensor

from vlmkit.validation import check_choice


def project_embeddings(embeds: Tensor | np.ndarray, *, method: str = "pca", seed: int = 0) -> np.ndarray:
    """Project embeddings to two dimensions.

    `"pca"` keeps the two directions with the largest variance, in which distances are meaningful. `"tsne"` keeps
    neighbors together and shows clusters, but distances between clusters are not meaningful. Project embeddings that
    are to be compared in one call.

    Args:
        embeds: `(N, D)`, with N >= 3 and D >= 2.
        method: `"pca"` or `"tsne"`. `"tsne"` needs scikit-learn, and takes minutes for 10,000 points.
        seed: Random seed of `"tsne"`.

    Returns:
        `(N, 2)` float64. The signs of `"pca"` are chosen such that the largest absolute value of a coordinate is
        positive.

    Raises:
        ValueError: If `method` is unknown, or the embeddings are too few, not finite or not a matrix.
        ImportError: If `method` is `"tsne"` and scikit-learn is not installed.

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
        raise ValueError(
            f"`embeds` must be a finite matrix of at least 3 rows and 2 columns, but got the shape {rows.shape}."
        )
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
        raise ImportError(
            "`method='tsne'` needs scikit-learn. Run `pip install scikit-learn`, or use `method='pca'`."
        ) from error
    # The perplexity, which corresponds to the number of neighbors, must be less than the number of points.
    tsne = TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=seed)
    return tsne.fit_transform(rows).astype(np.float64)
