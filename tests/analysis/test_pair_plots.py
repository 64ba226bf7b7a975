import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from vlmkit.analysis.figure_style import GREEN, VERMILION
from vlmkit.analysis.pair_plots import confusion_heatmap, embedding_map, error_gallery, heat_overlay, metric_ladder

COLOURS = ("red", "green", "blue")
LONG = "the photo on the left is a willow tree and the photo on the right is a pickup truck"


def pictures(count=3, size=(16, 8)):
    return [Image.new("RGB", size, colour) for colour in COLOURS[:count]]


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


class TestHeatOverlay:
    def test_image_above_its_map(self):
        maps = np.arange(12.0).reshape(2, 2, 3)
        figure = heat_overlay(pictures(2), maps, titles=["first", "second"])
        written(figure)
        upper = [axes for axes in figure.axes if axes.get_title()]
        lower = [axes for axes in figure.axes if axes.get_xlabel()]
        assert [axes.get_title() for axes in upper] == ["first", "second"]
        assert [axes.get_xlabel() for axes in lower] == ["0 to 5", "6 to 11"]
        np.testing.assert_array_equal(lower[1].images[1].get_array(), maps[1])
        for above, below in zip(upper, lower, strict=True):
            assert above.get_position().y0 > below.get_position().y1
            assert above.get_position().x0 == pytest.approx(below.get_position().x0)

    def test_the_map_covers_the_image(self):
        lower = heat_overlay(pictures(1), np.eye(2)[None]).axes[1]
        assert lower.images[0].get_extent() == lower.images[1].get_extent() == [0, 16, 8, 0]

    def test_the_highest_value_is_brightest(self):
        figure = heat_overlay([Image.new("RGB", (40, 20))], np.array([[[0.0, 0.0], [0.0, 1.0]]]))
        pixels = written(figure)[..., :3].sum(axis=2)
        to_pixel = figure.axes[1].transData.transform
        (dark_x, dark_y), (bright_x, bright_y) = to_pixel((3, 3)), to_pixel((37, 17))
        assert pixels[-int(bright_y), int(bright_x)] > pixels[-int(dark_y), int(dark_x)] + 100

    def test_several_rows_stay_inside_and_leave_no_empty_axes(self):
        figure = heat_overlay(pictures(3), np.random.default_rng(0).random((3, 4, 4)), titles=list("abc"), columns=2)
        written(figure)
        assert inside(figure)
        assert len(figure.axes) == 6

    @pytest.mark.parametrize(
        ("maps", "titles", "columns", "message"),
        [
            (np.ones((2, 4, 4)), None, 4, r"`images`, `maps` \(N, h, w\) and `titles` must have the same length of"),
            (np.ones((3, 4)), None, 4, r"maps \(3, 4\)"),
            (np.ones((3, 4, 4)), ["a"], 4, "and 1 titles"),
            (np.ones((3, 4, 4)), None, 0, "`columns` must be at least 1, but got 0"),
        ],
    )
    def test_errors(self, maps, titles, columns, message):
        with pytest.raises(ValueError, match=message):
            heat_overlay(pictures(), maps, titles=titles, columns=columns)


class TestErrorGallery:
    def test_truth_in_green_above_and_prediction_in_vermilion_below(self):
        figure = error_gallery(
            pictures(2),
            true_captions=["oak, bus", "cat, dog"],
            predicted_captions=["pine, bus", "cat, cat"],
            probabilities=[0.934, 0.5],
        )
        first, second = figure.axes
        assert (first.get_title(), first.get_xlabel()) == ("oak, bus", "pine, bus (93 %)")
        assert (second.get_title(), second.get_xlabel()) == ("cat, dog", "cat, cat (50 %)")
        assert (first.title.get_color(), first.xaxis.label.get_color()) == (GREEN, VERMILION)

    @pytest.mark.parametrize(("count", "columns"), [(1, 4), (3, 2), (3, 3)])
    def test_long_captions_do_not_touch_and_stay_inside(self, count, columns):
        figure = error_gallery(
            pictures(count),
            true_captions=[LONG] * count,
            predicted_captions=[LONG] * count,
            probabilities=[0.5] * count,
            columns=columns,
        )
        written(figure)
        assert inside(figure)
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        for index, box in enumerate(boxes):
            assert box.count_overlaps(boxes[:index]) == 0

    @pytest.mark.parametrize(("count", "lengths"), [(3, (2, 3, 3)), (3, (3, 2, 3)), (3, (3, 3, 2)), (0, (0, 0, 0))])
    def test_errors(self, count, lengths):
        true, predicted, probabilities = (["a"] * lengths[0], ["b"] * lengths[1], [0.5] * lengths[2])
        with pytest.raises(ValueError, match=rf"got \[{count}, {lengths[0]}, {lengths[1]}, {lengths[2]}\]"):
            error_gallery(
                pictures(count), true_captions=true, predicted_captions=predicted, probabilities=probabilities
            )


class TestEmbeddingMap:
    def test_series_and_background(self):
        points = np.arange(8.0).reshape(4, 2)
        figure = embedding_map(points, series=["cat", "dog", "cat", "dog"], background=np.zeros((5, 2)))
        behind, cats, dogs = figure.axes[0].collections
        assert len(behind.get_offsets()) == 5
        np.testing.assert_array_equal(cats.get_offsets(), points[::2])
        np.testing.assert_array_equal(dogs.get_offsets(), points[1::2])
        assert written(figure).std() > 0

    def test_thirty_series_look_different(self):
        figure = embedding_map(np.random.default_rng(0).random((30, 2)), series=[str(index) for index in range(30)])
        written(figure)
        looks = {
            (to_hex(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
            for points in figure.axes[0].collections[1:]
        }
        assert len(looks) == 30
        assert inside(figure)

    def test_equal_distances_look_equal(self):
        figure = embedding_map(np.array([[0.0, 0.0], [10.0, 1.0]]), series=["a", "b"])
        written(figure)
        transform = figure.axes[0].transData.transform
        origin, right, up = (transform(point) for point in ((0, 0), (1, 0), (0, 1)))
        assert right[0] - origin[0] == pytest.approx(up[1] - origin[1])

    @pytest.mark.parametrize(
        ("points", "series", "background", "message"),
        [
            (np.ones((2, 2)), ["a"], None, r"`points` must have the shape \(N, 2\) with N >= 1, `series` the length"),
            (np.ones((2, 3)), ["a", "b"], None, r"`points` must have the shape \(N, 2\) with N >= 1, `series` the"),
            (np.ones((0, 2)), [], None, r"`points` must have the shape \(N, 2\) with N >= 1, `series` the length N"),
            (np.ones((1, 2)), ["a"], np.ones((4, 3)), r"`points` must have the shape \(N, 2\) with N >= 1, `series`"),
        ],
    )
    def test_errors(self, points, series, background, message):
        with pytest.raises(ValueError, match=message):
            embedding_map(points, series=series, background=background)


class TestConfusionHeatmap:
    def test_per_cent_of_the_row(self):
        figure = confusion_heatmap(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["oak", "pine", "bus"])
        axes = figure.axes[0]
        assert [text.get_text() for text in axes.texts] == ["75", "25", "", "", "100", "", "", "", ""]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["oak", "pine", "bus"]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["oak", "pine", "bus"]
        assert np.isnan(axes.images[0].get_array()[2].filled(np.nan)).all()  # no such images: no shares

    @pytest.mark.parametrize("count", [2, 20])
    def test_long_names_stay_inside_and_numbers_in_their_cells(self, count):
        names = [f"large_natural_outdoor_scenes_{index}" for index in range(count)]
        figure = confusion_heatmap(np.ones((count, count)) + 99 * count * np.eye(count), names)
        written(figure)
        assert inside(figure)
        width = figure.axes[0].get_window_extent().width / count
        assert max(text.get_window_extent().width for text in figure.axes[0].texts) < width

    @pytest.mark.parametrize(
        ("confusion", "message"),
        [
            (np.ones((2, 3)), r"`confusion` must have the shape \(2, 2\), one row and column for each of `names`,"),
            (np.zeros((2, 2)), "sum of 0"),
        ],
    )
    def test_errors(self, confusion, message):
        with pytest.raises(ValueError, match=message):
            confusion_heatmap(confusion, ["a", "b"])


def test_a_ladder_shows_every_metric():
    names = [f"top@{k}" for k in range(1, 9)]
    figure = metric_ladder(
        ["baseline", "+ depth"], metrics=dict.fromkeys(names, (0.1, 0.2)), references=dict.fromkeys(names, 0.01)
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
