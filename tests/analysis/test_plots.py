import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from vlmkit.analysis.plots import recall_heatmap, recall_versus_parameters, similarity_grid

COLOURS = ("red", "green", "blue")


def squares(count=3, size=(8, 8)):
    return [Image.new("RGB", size, colour) for colour in COLOURS[:count]]


def captions(count=3):
    return [f"a photograph of a {colour} square" for colour in COLOURS[:count]]


def written(figure):
    """The figure as it is saved: its pixels, and the pixel boxes of the first axes' texts."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer)), [text.get_window_extent() for text in figure.axes[0].texts]


def cell_texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


class TestRecallHeatmap:
    def test_cells_labels_and_title(self):
        figure = recall_heatmap(
            np.array([[0.25, 0.3625], [1.0, 0.0]]),
            row_labels=["S", "B"],
            column_labels=["small", "large"],
            title="recall@5",
        )
        axes = figure.axes[0]
        assert cell_texts(figure) == ["25.0", "36.2", "100.0", "0.0"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["S", "B"]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["small", "large"]
        assert axes.get_title(loc="left") == "recall@5"
        assert axes.get_xlabel() == "percent"

    def test_published_figures_and_gaps(self):
        ours, published = np.array([[0.2, np.nan]]), np.array([[np.nan, 0.425]])
        figure = recall_heatmap(
            ours, row_labels=["S"], column_labels=["small", "large"], title="recall@5", published=published
        )
        assert cell_texts(figure) == ["20.0\n(-)", "-\n(42.5)"]
        assert "published" in figure.axes[0].get_xlabel()

    def test_text_is_dark_on_light_and_light_on_dark_cells(self):
        figure = recall_heatmap(
            np.array([[0.0, np.nan, 1.0]]), row_labels=["S"], column_labels=["a", "b", "c"], title="recall@5"
        )
        assert [text.get_color() for text in figure.axes[0].texts] == ["black", "black", "white"]

    def test_first_row_is_on_top_and_everything_inside_the_figure(self):
        figure = recall_heatmap(
            np.array([[0.1], [0.9]]),
            row_labels=["first", "second"],
            column_labels=["a long name of a column"],
            title="title " * 6,
        )
        pixels, (first, second) = written(figure)
        assert first.y0 > second.y1
        width, height = pixels.shape[1], pixels.shape[0]
        box = figure.axes[0].get_tightbbox()
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height

    def test_equal_values(self):
        assert (
            written(
                recall_heatmap(np.full((2, 2), 0.5), row_labels=["a", "b"], column_labels=["c", "d"], title="recall@5")
            )[0].std()
            > 0
        )

    @pytest.mark.parametrize(
        ("values", "rows", "published", "message"),
        [
            (np.ones((2, 2)), ["a"], None, r"`values` must have the shape \(1, 2\), one row for each of"),
            (np.ones((0, 2)), [], None, r"`values` must have the shape \(0, 2\), .* must not be empty"),
            (np.ones((1, 2)), ["a"], np.ones((2, 1)), r"`published` must have the shape \(1, 2\) of `values`, but"),
        ],
    )
    def test_errors(self, values, rows, published, message):
        with pytest.raises(ValueError, match=message):
            recall_heatmap(values, row_labels=rows, column_labels=["c", "d"], title="recall@5", published=published)


class TestSimilarityGrid:
    def test_each_image_stands_left_of_its_row(self):
        figure = similarity_grid(squares(), captions(), similarity=np.eye(3))
        pixels, _ = written(figure)
        axes = figure.axes[0]
        for row, colour in enumerate([(255, 0, 0), (0, 128, 0), (0, 0, 255)]):
            x, y = axes.transData.transform((-0.54, row + 0.5))
            assert tuple(pixels[int(pixels.shape[0] - y), int(x), :3]) == colour

    def test_numbers_captions_and_the_frame_of_true_pairs(self):
        similarity = np.arange(9).reshape(3, 3) / 10
        figure = similarity_grid(squares(), captions(), similarity=similarity)
        axes = figure.axes[0]
        assert cell_texts(figure)[:9] == [f"{value:.2f}" for value in similarity.ravel()]
        assert [text.replace("\n", " ") for text in cell_texts(figure)[9:]] == captions()
        corners = [patch.get_xy() for patch in axes.patches]
        assert [(int(x), int(y)) for x, y in corners] == [(0, 0), (1, 1), (2, 2)]
        assert {to_hex(patch.get_edgecolor()) for patch in axes.patches} == {"#d55e00"}

    def test_long_captions_are_cut_and_stay_inside_the_figure_and_above_their_column(self):
        figure = similarity_grid(squares(2), ["many words " * 40, "few words"], similarity=np.eye(2))
        pixels, boxes = written(figure)
        long, short = boxes[4:]
        assert cell_texts(figure)[4].endswith("…")
        assert 0 < long.x0 < long.x1 < short.x0 < short.x1 < pixels.shape[1]
        assert max(long.y1, short.y1) < pixels.shape[0]

    def test_images_keep_their_proportions(self):
        figure = similarity_grid([Image.new("L", (20, 10))], ["a wide grey image"], similarity=np.ones((1, 1)))
        left, right, bottom, top = figure.axes[0].images[1].get_extent()
        assert (right - left) / (bottom - top) == pytest.approx(2)

    @pytest.mark.parametrize(
        ("images", "texts", "similarity"),
        [
            (squares(2), captions(3), np.eye(2)),
            (squares(3), captions(3), np.ones((3, 2))),
            ([], [], np.ones((0, 0))),
        ],
    )
    def test_errors(self, images, texts, similarity):
        with pytest.raises(ValueError, match=f"must have the same length N .* got {len(images)}, {len(texts)} and"):
            similarity_grid(images, texts, similarity=similarity)


class TestRecallVersusParameters:
    def test_points_bars_and_units(self):
        figure = recall_versus_parameters(
            [20_000_000, 300_000_000], recalls=[0.2, 0.5], labels=["small", "large"], errors=[0.02, 0.05]
        )
        axes = figure.axes[0]
        points, bars = axes.lines[0], axes.collections[0]
        np.testing.assert_allclose(points.get_xydata(), [[20, 20], [300, 50]])
        np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[18, 22], [45, 55]])
        assert axes.get_xscale() == "log"
        assert axes.get_xlabel() == "parameters, millions"
        assert {label.get_text() for label in axes.get_xticklabels()} >= {"20", "50", "100", "200"}

    def test_labels_of_close_points_do_not_overlap_and_stay_inside(self):
        parameters = [61e6, 61.5e6, 138e6, 140e6, 143e6]
        labels = [f"model {index}" for index in range(5)]
        figure = recall_versus_parameters(
            parameters, recalls=[0.2, 0.2, 0.35, 0.36, 0.35], labels=labels, errors=[0.03] * 5
        )
        _, boxes = written(figure)
        for index, box in enumerate(boxes):
            assert box.count_overlaps(boxes[:index]) == 0
            assert figure.axes[0].bbox.x0 <= box.x0
            assert box.x1 <= figure.axes[0].bbox.x1

    def test_a_series_has_a_colour_and_a_name(self):
        series = ["gpt2", "gpt2-large", "gpt2"]
        figure = recall_versus_parameters(
            [20e6, 30e6, 40e6], recalls=[0.2, 0.3, 0.4], labels=["s", "s", "b"], series=series
        )
        small, large = (container.lines[0] for container in figure.axes[0].containers)
        np.testing.assert_allclose(small.get_xydata(), [[20, 20], [40, 40]])
        np.testing.assert_allclose(large.get_xydata(), [[30, 30]])
        assert small.get_color() != large.get_color()
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["gpt2", "gpt2-large"]

    @pytest.mark.parametrize(
        ("parameters", "recalls", "labels", "errors", "message"),
        [
            ([1, 2], [0.1], ["a", "b"], None, r"`recalls`, `labels`, `errors` and `series` must have the length 2"),
            ([1, 2], [0.1, 0.2], ["a"], None, r"`recalls`, `labels`, `errors` and `series` must have the length 2"),
            ([1, 2], [0.1, 0.2], ["a", "b"], [0.1], r"`recalls`, `labels`, `errors` and `series` must have the"),
            ([1, 0], [0.1, 0.2], ["a", "b"], None, r"`parameters` must be positive and not empty, but got \[1, 0\]"),
            ([], [], [], None, r"`parameters` must be positive and not empty"),
        ],
    )
    def test_errors(self, parameters, recalls, labels, errors, message):
        with pytest.raises(ValueError, match=message):
            recall_versus_parameters(parameters, recalls=recalls, labels=labels, errors=errors)
