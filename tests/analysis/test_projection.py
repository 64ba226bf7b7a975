import sys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from vlmkit.analysis.projection import project_embeddings


def clusters(size=20, width=8):
    """Two groups of embeddings, far apart."""
    return torch.cat([torch.randn(size, width), torch.randn(size, width) + 10])


class TestPca:
    def test_finds_the_plane_of_largest_variance(self):
        plane = torch.randn(50, 2) * torch.tensor([5.0, 1.0])
        directions = torch.linalg.qr(torch.randn(8, 2)).Q
        points = project_embeddings(plane @ directions.T + 3)
        distances = torch.pdist(plane.double())
        torch.testing.assert_close(torch.pdist(torch.from_numpy(points)), distances, rtol=1e-5, atol=1e-5)
        assert points[:, 0].std() > points[:, 1].std()

    def test_agrees_with_scikit_learn(self):
        embeds = torch.randn(30, 5).numpy()
        theirs = PCA(n_components=2).fit_transform(embeds.astype(np.float64))
        np.testing.assert_allclose(np.abs(project_embeddings(embeds)), np.abs(theirs), atol=1e-8)

    def test_signs_do_not_depend_on_the_order(self):
        embeds = torch.randn(30, 5)
        order = torch.randperm(30)
        points = project_embeddings(embeds)
        np.testing.assert_allclose(project_embeddings(embeds[order]), points[order], atol=1e-8)
        assert (points.max(axis=0) == np.abs(points).max(axis=0)).all()

    def test_takes_half_precision_with_gradients(self):
        points = project_embeddings(torch.randn(5, 4, dtype=torch.bfloat16, requires_grad=True))
        assert points.shape == (5, 2)
        assert points.dtype == np.float64


class TestTsne:
    def test_keeps_clusters_apart_and_is_reproducible(self):
        embeds = clusters()
        points = project_embeddings(embeds, method="tsne")
        assert points.shape == (40, 2)
        assert points.dtype == np.float64
        near, far = points[:20], points[20:]
        radius = max(np.linalg.norm(part - part.mean(axis=0), axis=1).max() for part in (near, far))
        assert np.linalg.norm(near.mean(axis=0) - far.mean(axis=0)) > radius
        np.testing.assert_array_equal(project_embeddings(embeds, method="tsne"), points)

    def test_few_points(self):
        assert project_embeddings(np.eye(3), method="tsne").shape == (3, 2)

    def test_without_scikit_learn(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
        with pytest.raises(ImportError, match=r"`method='tsne'` needs scikit-learn"):
            project_embeddings(clusters(), method="tsne")
        assert project_embeddings(clusters()).shape == (40, 2)


@pytest.mark.parametrize(
    ("embeds", "method", "message"),
    [
        (np.eye(3), "umap", "`method` must be one of 'pca', 'tsne', but got 'umap'."),
        (np.ones((2, 3)), "pca", r"`embeds` must be a finite matrix of at least 3 rows and 2 columns, but got the"),
        (np.ones((3, 1)), "pca", r"`embeds` must be a finite matrix of at least 3 rows and 2 columns, but got the"),
        (np.ones(3), "pca", r"`embeds` must be a finite matrix of at least 3 rows and 2 columns, but got the shape"),
        (np.full((3, 3), np.nan), "tsne", r"`embeds` must be a finite matrix of at least 3 rows and 2 columns, but"),
    ],
)
def test_errors(embeds, method, message):
    with pytest.raises(ValueError, match=message):
        project_embeddings(embeds, method=method)
