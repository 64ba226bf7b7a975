import io

import numpy as np
import pytest
from PIL import Image
from tests import tiny

from vlmkit.analysis.caption_plots import caption_gallery, similarity_figure, word_heatmap_figure
from vlmkit.analysis.figure_style import GREY

LONG = "two children in red jackets and a large brown dog run along the beach while the sun goes down behind them"


def pictures(count=3, size=(16, 8)):
    return [tiny.photo(*size, seed=row) for row in range(count)]


def written(figure):
    """The pixels of the figure as it is saved."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer))


def inside(figure):
    """Whether all that is drawn lies inside the figure; after `written`."""
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def assert_nothing_overlaps(figure):
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for index, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:index]) == 0


def even(height=2, width=2):
    return np.full((height, width), 1 / (height * width))


class TestCaptionGallery:
    def test_caption_below_its_image_and_reference_in_grey_below_that(self):
        figure = caption_gallery(pictures(2), ["a dog", "a cat"], references=["one dog", "one cat"])
        written(figure)
        for axes, caption, reference in zip(figure.axes, ["a dog", "a cat"], ["one dog", "one cat"], strict=True):
            ours, theirs = axes.texts
            assert (ours.get_text(), theirs.get_text()) == (caption, reference)
            assert (ours.get_color(), theirs.get_color()) == ("black", GREY)
            assert axes.get_window_extent().y0 > ours.get_window_extent().y1
            assert ours.get_window_extent().y0 > theirs.get_window_extent().y1

    @pytest.mark.parametrize(("count", "columns"), [(1, 4), (3, 2), (4, 4), (5, 1)])
    @pytest.mark.parametrize("caption", [LONG, LONG.upper()])
    def test_long_captions_do_not_touch_and_stay_inside(self, count, columns, caption):
        figure = caption_gallery(pictures(count), [caption] * count, references=[caption] * count, columns=columns)
        written(figure)
        assert inside(figure)
        assert_nothing_overlaps(figure)

    def test_images_of_a_row_stand_on_one_line_in_their_own_shapes(self):
        images = [*pictures(1, (40, 20)), *pictures(1, (20, 40)), *pictures(1, (30, 30))]
        figure = caption_gallery(images, ["a", LONG, "c"])
        written(figure)
        boxes = [axes.get_window_extent() for axes in figure.axes]
        assert len({round(box.y0) for box in boxes}) == 1
        assert [box.width / box.height for box in boxes] == pytest.approx([2, 0.5, 1], rel=0.02)
        assert inside(figure)
        assert_nothing_overlaps(figure)

    def test_captions_without_end_are_shortened(self):
        (axes,) = caption_gallery(pictures(1), ["a dog and " * 100]).axes
        lines = axes.texts[0].get_text().splitlines()
        assert len(lines) == 5
        assert lines[-1].endswith(" …")

    def test_empty_captions_and_dollar_signs(self):
        figure = caption_gallery(pictures(2), ["", "it costs $5 or $\\frac$"])
        written(figure)
        assert [axes.texts[0].get_text() for axes in figure.axes] == ["", "it costs $5 or $\\frac$"]

    def test_transparent_images_lie_on_white(self):
        figure = caption_gallery([Image.new("RGBA", (4, 4), (255, 0, 0, 0))], ["nothing"])
        assert (figure.axes[0].images[0].get_array() == 255).all()

    @pytest.mark.parametrize(
        ("count", "captions", "references", "columns", "message"),
        [
            (0, [], None, 4, r"`images`, `captions` and `references` must have the same length of at least 1, but"),
            (2, ["a"], None, 4, r"`images`, `captions` and `references` must have the same length of at least 1,"),
            (1, ["a"], ["a", "b"], 4, r"`images`, `captions` and `references` must have the same length of at least"),
            (1, ["a"], None, 0, "`columns` must be at least 1, but got 0"),
        ],
    )
    def test_errors(self, count, captions, references, columns, message):
        with pytest.raises(ValueError, match=message):
            caption_gallery(pictures(count), captions, references=references, columns=columns)


class TestWordHeatmapFigure:
    def test_the_image_and_then_a_panel_per_word(self):
        (picture,) = pictures(1)
        first, *panels = word_heatmap_figure(picture, [("a", even()), ("dog", np.eye(2) / 2)]).axes
        np.testing.assert_array_equal(first.images[0].get_array(), np.asarray(picture))
        assert [axes.get_title() for axes in panels] == ["a", "dog"]
        assert [axes.texts[0].get_text() for axes in panels] == ["up to 1.0 times", "up to 2.0 times"]
        np.testing.assert_array_equal(panels[1].images[1].get_array(), np.eye(2) / 2)
        for axes in panels:
            assert axes.images[0].get_extent() == axes.images[1].get_extent() == [0, 16, 8, 0]

    def test_colours_run_from_zero_to_the_highest_value_of_the_word(self):
        words = [("a", even()), ("dog", np.array([[0.7, 0.1], [0.1, 0.1]]))]
        panels = word_heatmap_figure(*pictures(1), words).axes[1:]
        assert [axes.images[1].get_clim() for axes in panels] == [(0, 0.25), (0, 0.7)]

    def test_the_highest_value_is_brightest(self):
        figure = word_heatmap_figure(Image.new("RGB", (40, 20)), [("dog", np.array([[0.0, 0.0], [0.0, 1.0]]))])
        pixels = written(figure)[..., :3].sum(axis=2)
        to_pixel = figure.axes[1].transData.transform
        (dark_x, dark_y), (bright_x, bright_y) = to_pixel((3, 3)), to_pixel((37, 17))
        assert pixels[-int(bright_y), int(bright_x)] > pixels[-int(dark_y), int(dark_x)] + 100

    @pytest.mark.parametrize("size", [(16, 8), (8, 16)])
    @pytest.mark.parametrize(("count", "columns"), [(1, 6), (5, 6), (12, 5), (3, 1)])
    def test_rows_stay_inside_and_apart(self, size, count, columns):
        words = [("counterrevolutionaries" if row % 2 else "dog.", even(3, 2)) for row in range(count)]
        figure = word_heatmap_figure(*pictures(1, size), words, columns=columns)
        written(figure)
        assert len(figure.axes) == 1 + count
        assert inside(figure)
        assert_nothing_overlaps(figure)

    def test_a_dollar_sign(self):
        figure = word_heatmap_figure(*pictures(1), [("$\\frac$", even())])
        written(figure)  # which fails for a formula that is none
        assert figure.axes[1].get_title() == "$\\frac$"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], r"`words` must not be empty"),
            ([("dog", np.ones(4))], r"The map of 'dog' must be a matrix of finite numbers of at least 0, but got"),
            ([("dog", np.ones((0, 2)))], r"The map of 'dog' must be a matrix of finite numbers of at least 0, but"),
            ([("a", even()), ("dog", np.array([[1.0, np.nan]]))], r"The map of 'dog' must be a matrix of finite"),
            ([("dog", np.array([[1.5, -0.5]]))], r"The map of 'dog' must be a matrix of finite numbers of at least"),
        ],
    )
    def test_errors(self, words, message):
        with pytest.raises(ValueError, match=message):
            word_heatmap_figure(*pictures(1), words)


class TestSimilarityFigure:
    def test_bars_and_both_maps_on_one_scale(self):
        to_queries, to_image, mean = np.array([0.5, -0.5, 1.0]), np.arange(6.0), -np.arange(6.0)
        chart, first, second, *_ = similarity_figure(*pictures(1), to_queries, to_image, mean, grid=(2, 3)).axes
        assert [bar.get_height() for bar in chart.patches] == [0.5, -0.5, 1.0]
        np.testing.assert_array_equal(first.images[1].get_array(), [[0, 1, 2], [3, 4, 5]])
        np.testing.assert_array_equal(second.images[1].get_array(), [[0, -1, -2], [-3, -4, -5]])
        assert first.images[1].get_clim() == second.images[1].get_clim() == (-5, 5)

    @pytest.mark.parametrize("size", [(16, 8), (8, 16), (8, 8)])
    @pytest.mark.parametrize("num_queries", [1, 64])
    def test_stays_inside_and_apart(self, size, num_queries):
        figure = similarity_figure(
            *pictures(1, size), np.ones(num_queries), np.arange(6.0), np.arange(6.0), grid=(2, 3)
        )
        written(figure)
        assert inside(figure)
        assert_nothing_overlaps(figure)

    def test_equal_similarities(self):
        assert written(similarity_figure(*pictures(1), np.zeros(2), np.ones(6), np.ones(6), grid=(2, 3))).std() > 0

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            (((2, 3), (6,), (6,)), r"`global_to_query` must be a vector, and `global_to_image` and `query_to_image`"),
            (((3,), (5,), (6,)), r"`global_to_query` must be a vector, and `global_to_image` and `query_to_image`"),
            (((3,), (6,), (1, 6)), r"`global_to_query` must be a vector, and `global_to_image` and `query_to_image`"),
        ],
    )
    def test_errors(self, shapes, message):
        with pytest.raises(ValueError, match=message):
            similarity_figure(*pictures(1), *map(np.ones, shapes), grid=(2, 3))
