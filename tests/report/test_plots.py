"""Figures name their axes with units, and read without colour; what they show is what the records hold."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fake_records import CLASSES, lambda_arms, record_of, runs, spec_of
from matplotlib import font_manager
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats

from kdutils.data.datasets import Dataset
from kdutils.distillation.methods import KD
from kdutils.networks.binary import binary_layers
from kdutils.networks.registry import build_model
from kdutils.report import plots, statistics, tables
from kdutils.report.page import rendered

OKABE_ITO = {
    "#000000",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
}  # Okabe and Ito (2008)
NAMES = (
    "small CNN",
    "ResNet18",
    "ResNet50",
    "from ResNet50",
    "from ResNet18",
    "from both, logits",
    "from both, probabilities",
)


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def dataset():
    random = np.random.RandomState(5)
    images = torch.from_numpy(random.randint(0, 256, (120, 32, 32, 3)).astype(np.uint8))
    labels = torch.from_numpy(random.permutation(np.arange(120) % 10).astype(np.uint8))
    return Dataset("synthetic", CLASSES, images, labels, images[:40], labels[:40], digest="")


def arms_of(folder, count=3, seeds=2):
    return {
        name: [record_of(folder, spec_of(seed), test=60.0 + seed, val=50.0 + 4 * seed) for seed in range(seeds)]
        for name in NAMES[:count]
    }


def gains_of(folder, count=3, seeds=3):
    alone = [record_of(folder, spec_of(seed), test=60.0 + seed) for seed in range(seeds)]
    taught = [
        [record_of(folder, spec_of(seed), test=61.0 + arm + seed**2) for seed in range(seeds)] for arm in range(count)
    ]
    return [
        statistics.gain(records, alone, (name, "small CNN")) for name, records in zip(NAMES[1:], taught, strict=False)
    ]


def lines_of(axis):
    return [line for line in axis.lines if not line.get_label().startswith("_")]


def legend_of(figure):
    return [text.get_text() for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()]


def drawn(figure):
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    return figure


def test_class_names_in_chinese_are_drawn_where_a_font_has_them(recwarn):
    """A family that is not installed would be complained of in every figure."""
    first, *others = plt.rcParams["font.family"]
    assert first == "sans-serif" and set(others) <= set(font_manager.get_font_names())
    plt.figure().suptitle("猫")
    plt.gcf().canvas.draw()
    assert bool(others) != any("missing from font" in str(warning.message) for warning in recwarn)


# Curves


@pytest.mark.parametrize("seeds", [1, 2])
def test_curves_show_accuracy_and_loss_of_every_arm(tmp_path, seeds):
    figure = drawn(plots.plot_curves(arms_of(tmp_path, 2, seeds)))
    accuracy, other, loss, last = figure.axes
    assert (accuracy.get_ylabel(), loss.get_ylabel()) == ("accuracy (%)", "cross-entropy (nats)")
    assert (accuracy.get_title(), other.get_title()) == NAMES[:2]
    assert loss.get_xlabel() == last.get_xlabel() == "epoch"
    (legend,) = figure.legends  # above the panels, where it hides no curve
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]
    for axis in figure.axes:
        assert len(lines_of(axis)) == 2 and list(lines_of(axis)[0].get_xdata()) == [1, 2, 3]


def test_a_line_is_the_mean_over_seeds_and_its_band_their_range(tmp_path):
    figure = plots.plot_curves(arms_of(tmp_path, 1, 2))
    validation = next(line for line in lines_of(figure.axes[0]) if line.get_label() == "validation")
    assert validation.get_ydata().tolist() == [30.0, 55.0, 52.0]
    heights = [band.get_paths()[0].vertices[:, 1] for band in figure.axes[0].collections]
    assert any(min(band) == 30.0 and {50.0, 54.0} <= set(band) for band in heights)


def test_the_training_loss_of_a_distilled_run_is_its_cross_entropy(tmp_path):
    figure = plots.plot_curves({"distilled": [record_of(tmp_path, spec_of(temperature=4.0))]})
    training = next(line for line in lines_of(figure.axes[1]) if line.get_label() == "training")
    assert training.get_ydata().tolist() == [2.2, 1.9, 1.8]


def test_curves_of_a_run_without_validation_show_training_alone(tmp_path):
    figure = drawn(plots.plot_curves({"small CNN": [record_of(tmp_path, spec_of(val_size=0))]}))
    assert [[line.get_label() for line in lines_of(axis)] for axis in figure.axes] == [["training"], ["training"]]


def test_one_epoch_is_one_mark_of_the_axis(tmp_path):
    record = record_of(tmp_path)
    table = record.path / "history.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:2]))
    for draw in (plots.plot_curves, plots.plot_overlay):
        figure = draw({"a": [record]})
        left, right = figure.axes[-1].get_xlim()
        assert [mark for mark in figure.axes[-1].get_xticks() if left <= mark <= right] == [1]


def test_curves_show_the_test_images_of_a_run_that_watched_them(tmp_path):
    record = record_of(tmp_path, spec_of(val_size=0))
    record.history.assign(test_loss=[2.1, 1.8, 1.6], test_accuracy=[21.0, 33.0, 41.0]).to_csv(
        record.path / "history.csv", index=False
    )
    figure = drawn(plots.plot_curves({"small CNN": [record]}))
    accuracy, loss = ({line.get_label(): line.get_ydata().tolist() for line in lines_of(axis)} for axis in figure.axes)
    assert (
        accuracy.keys() == {"training", "test"}
        and accuracy["test"] == [21.0, 33.0, 41.0]
        and loss["test"] == [2.1, 1.8, 1.6]
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_overlay_shows_every_arm_in_one_plot(tmp_path, seeds):
    figure = drawn(plots.plot_overlay(arms_of(tmp_path, 7, seeds)))
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "validation accuracy (%)")
    assert legend_of(figure) == [line.get_label() for line in lines_of(axis)] == list(NAMES)


def test_an_overlay_of_another_column_is_labelled_by_its_caller(tmp_path):
    figure = plots.plot_overlay(arms_of(tmp_path, 1), "train_loss", "training loss (nats)")
    assert figure.axes[0].get_ylabel() == "training loss (nats)"
    assert lines_of(figure.axes[0])[0].get_ydata().tolist() == [2.0, 1.7, 1.5]


@pytest.mark.parametrize("figure_of", [plots.plot_curves, plots.plot_overlay])
def test_lines_differ_without_colour_and_colours_are_safe(tmp_path, figure_of):
    for axis in figure_of(arms_of(tmp_path, 7)).axes:
        lines = lines_of(axis)
        dashes, markers = ([getattr(line, name) for line in lines] for name in ("_dash_pattern", "_marker"))
        assert len({str(dash) for dash in dashes}) == len({marker.get_marker() for marker in markers}) == len(lines)
        colours = {to_hex(line.get_color()) for line in lines}
        assert len(colours) == len(lines) and colours <= OKABE_ITO


# Matrices


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_confusion_matrix_for_every_arm(tmp_path, count):
    figure = drawn(plots.plot_confusion(arms_of(tmp_path, count), CLASSES))
    assert len(figure.axes) == count
    for axis, name in zip(figure.axes, NAMES, strict=False):
        assert axis.get_title().replace("\n", " ") == name and max(map(len, axis.get_title().splitlines())) <= 30
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")
        assert [label.get_text() for label in axis.get_yticklabels()] == list(CLASSES)


def test_a_confusion_matrix_has_the_mean_over_seeds_in_its_cells(tmp_path):
    labels = np.arange(10)
    right, wrong = (
        record_of(tmp_path, logits=np.eye(10)[decisions], labels=labels)
        for decisions in (labels, np.zeros(10, dtype=int))
    )
    figure = plots.plot_confusion({"small CNN": [right, wrong]}, CLASSES)
    shown = np.array([text.get_text() for text in figure.axes[0].texts]).reshape(10, 10)
    assert (shown[0, 0], shown[3, 3], shown[3, 0], shown[3, 4]) == ("100", "50", "50", "0")


def grid_of(folder, cells, **fields):
    """The runs of a grid, kd_weight 0.5 and 0.9 by temperature 2, 4, 8, with these validation accuracies (%)."""
    where = [(weight, temperature) for weight in (0.5, 0.9) for temperature in (2.0, 4.0, 8.0)]
    specs = [spec_of(temperature=temperature, kd_weight=weight) for weight, temperature in where]
    return [
        record_of(folder, spec, val=val, diverged=val == 0, val_loss=2.0 - val_loss)
        for spec, val, val_loss in zip(specs, cells, fields.get("val_losses", [0.0] * 6), strict=True)
    ]


def framed(figure):
    (frame,) = figure.axes[0].patches
    assert not frame.get_fill() and (frame.get_width(), frame.get_height()) == (1, 1)
    return frame.get_xy()


def test_the_grid_frames_the_chosen_cell(tmp_path):
    grid = grid_of(tmp_path, (50.0, 51.0, 49.5, 50.5, 50.2, 53.1))
    figure = drawn(plots.plot_grid(tables.grid_table(grid), statistics.best_cell(grid)))
    axis, scale = figure.axes
    labels = (axis.get_xlabel(), axis.get_ylabel(), scale.get_ylabel())
    assert labels == ("temperature", "kd_weight", "validation accuracy (%)") and framed(figure) == (2, 1)
    assert [text.get_text() for text in axis.texts] == ["50.00", "51.00", "49.50", "50.50", "50.20", "53.10"]


def test_of_equal_cells_the_chosen_one_is_framed(tmp_path):
    grid = grid_of(tmp_path, (50.0, 53.1, 49.5, 53.1, 50.2, 53.1), val_losses=(0, 0.1, 0, 0.5, 0, 0.3))
    best = statistics.best_cell(grid)
    assert best == KD(temperature=2.0, kd_weight=0.9)  # by its lower loss
    assert framed(plots.plot_grid(tables.grid_table(grid), best)) == (0, 1)


def test_the_frame_is_where_it_is_asked_for_beside_the_student_alone(tmp_path):
    grid = [record_of(tmp_path, val=60.0), *grid_of(tmp_path, (50.0, 51.0, 49.5, 50.5, 50.2, 53.1))]
    for temperature, weight, corner in ((8.0, 0.5, (2, 1)), (4.0, 0.9, (1, 2))):
        figure = plots.plot_grid(tables.grid_table(grid), KD(temperature=temperature, kd_weight=weight))
        assert framed(figure) == corner


def test_a_diverged_cell_is_drawn_as_such(tmp_path):
    grid = grid_of(tmp_path, (50.0, 0.0, 49.5, 50.5, 50.2, 53.1))
    figure = drawn(plots.plot_grid(tables.grid_table(grid), statistics.best_cell(grid)))
    shown = {tuple(text.get_position()): text.get_text() for text in figure.axes[0].texts}
    assert (
        shown[1.5, 0.5] == "diverged" and len(shown) == 6 and "nan" not in shown.values() and framed(figure) == (2, 1)
    )


def test_a_grid_of_a_single_cell_is_drawn(tmp_path):
    record = record_of(tmp_path, spec_of(temperature=4.0), val=41.5)
    figure = drawn(plots.plot_grid(tables.grid_table([record]), record.spec.distillation.method))
    assert [text.get_text() for text in figure.axes[0].texts] == ["41.50"]


# Images


def test_images_stand_in_the_row_of_their_class(dataset):
    figure = drawn(plots.plot_images(dataset, per_class=4))
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(CLASSES)
    third = np.flatnonzero(dataset.train_labels.numpy() == 6)[2]
    assert np.array_equal(tile(axis, 6, 2), dataset.train_images[third])
    assert 6 * 36 < axis.get_yticks()[6] < 6 * 36 + 32, "a name stands beside its row"


def tile(axis, row, column):
    return axis.images[0].get_array()[36 * row :, 36 * column :][:32, :32]


def with_classes(dataset, count):
    names = tuple(f"class {label}" for label in range(count))
    labels = torch.arange(120) % min(count, 40)
    return replace(dataset, classes=names, train_labels=labels, test_labels=labels[:40])


def test_a_class_of_few_images_leaves_places_free(dataset):
    figure = drawn(plots.plot_images(with_classes(dataset, 40), per_class=4))
    white = [bool((tile(figure.axes[0], 9, column) == 255).all()) for column in range(4)]
    assert white == [False, False, False, True]  # 3 images of every class


def test_the_first_view_is_the_image_itself(dataset):
    figure = drawn(plots.plot_views(dataset, image=3, count=8))
    assert len(figure.axes) == 8 and len({axis.get_title() for axis in figure.axes}) == 8
    assert figure.axes[0].get_title() == "view 80"  # crop at (4, 4), not mirrored: (9 * 4 + 4) * 2
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert np.allclose(shown * 255, dataset.train_images[3].numpy(), atol=0.01)


def test_soft_labels_are_softmax_at_every_temperature(dataset):
    logits = np.random.RandomState(2).normal(0, 3, (2, 10)).astype(np.float32)
    figure = drawn(plots.plot_soft_labels(dataset, np.array([3, 7]), logits, (1, 4)))
    assert legend_of(figure) == ["T = 1", "T = 4"]
    images, bars = figure.axes[0::2], figure.axes[1::2]
    assert [axis.get_title() for axis in images] == [CLASSES[dataset.test_labels[i]] for i in (3, 7)]
    assert [axis.get_ylabel() for axis in bars] == ["probability", "probability"]
    assert [label.get_text() for label in bars[-1].get_xticklabels()] == list(CLASSES)
    for axis, z in zip(bars, logits.astype(float), strict=True):
        for temperature, container in zip((1, 4), axis.containers, strict=True):
            expected = np.exp(z / temperature) / np.exp(z / temperature).sum()
            assert [bar.get_height() for bar in container] == pytest.approx(expected.tolist(), rel=1e-5)


def test_of_many_classes_the_likeliest_are_shown(dataset):
    logits = np.random.RandomState(2).permutation(600).reshape(2, 300) / 50
    figure = drawn(plots.plot_soft_labels(with_classes(dataset, 300), np.array([3, 7]), logits, (1, 4)))
    for axis, z in zip(figure.axes[1::2], logits):
        assert [text.get_text() for text in axis.get_xticklabels()] == [f"class {k}" for k in np.argsort(z)[:-11:-1]]
        expected = np.sort(np.exp(z / 4) / np.exp(z / 4).sum())[:-11:-1]
        assert [bar.get_height() for bar in axis.containers[1]] == pytest.approx(expected.tolist())


def test_a_confusion_matrix_of_a_thousand_classes_is_an_image_without_names(tmp_path):
    labels = np.arange(1000)
    record = record_of(tmp_path, logits=np.eye(1000), labels=labels)
    figure = plots.plot_confusion({"small CNN": [record]}, [f"class {label}" for label in labels])
    assert not figure.axes[0].texts and not figure.axes[0].get_xticklabels()
    assert len(rendered(figure)["svg"]) < 1_000_000


def test_bars_differ_by_hatch_too(dataset):
    figure = plots.plot_soft_labels(dataset, np.array([0]), np.zeros((1, 10), dtype=np.float32))
    first_bars = [container[0] for container in figure.axes[1].containers]
    assert len({bar.get_hatch() for bar in first_bars}) == len({to_hex(bar.get_facecolor()) for bar in first_bars}) == 4
    assert {to_hex(bar.get_facecolor()) for bar in first_bars} <= OKABE_ITO


# Summaries


def test_size_and_accuracy_have_a_point_for_each_run(tmp_path):
    figure = drawn(plots.plot_cost_accuracy(arms_of(tmp_path, 7, 2)))
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_xscale()) == ("parameters", "test accuracy (%)", "log")
    assert legend_of(figure) == list(NAMES)
    assert [list(zip(*line.get_data(), strict=True)) for line in lines_of(axis)] == [
        [(268_650, 60.0), (268_650, 61.0)]
    ] * 7
    assert {line.get_linestyle() for line in lines_of(axis)} == {"None"}
    shapes, colours = (
        {line.get_marker() for line in lines_of(axis)},
        {to_hex(line.get_color()) for line in lines_of(axis)},
    )
    assert len(shapes) == len(colours) == 7 and colours <= OKABE_ITO


def test_every_seed_is_a_dot_above_the_mean_and_its_interval(tmp_path):
    accuracies = (60.0, 61.5, 63.0)
    arms = {"alone": runs(tmp_path / "a", (50.0,)), "taught": runs(tmp_path / "b", accuracies)}
    figure = drawn(plots.plot_seeds(arms, beside="taught"))
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(arms)
    dots = [line for line in axis.lines if line.get_marker() in plots.MARKERS and len(line.get_xdata()) > 1]
    assert [sorted(line.get_xdata()) for line in dots] == [list(accuracies)]
    low, high = stats.t.interval(0.95, 2, np.mean(accuracies), stats.sem(accuracies))
    (segment,) = axis.containers[1].lines[2][0].get_segments()
    assert segment[:, 0].tolist() == pytest.approx([low, high]) and axis.containers[0].lines[2] == ()
    assert any(list(line.get_xdata()) == [61.5, 61.5] for line in axis.lines if line.get_linestyle() == ":")


def test_gains_show_their_intervals_about_zero(tmp_path):
    gains = gains_of(tmp_path)
    figure = drawn(plots.plot_gains(gains))
    (axis,) = figure.axes
    first, second = axis.get_xlabel().splitlines()
    assert first == "gain in test accuracy (percentage points)"
    assert second == "95% confidence interval over seeds that share their views"
    assert [label.get_text() for label in axis.get_yticklabels()] == [gain.treated for gain in gains]
    for row, (container, gain) in enumerate(zip(axis.containers, gains, strict=True)):
        point, _, (interval,) = container.lines
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (gain.mean, row)
        assert interval.get_segments()[0][:, 0].tolist() == pytest.approx([gain.low, gain.high])
    assert any(list(line.get_xdata()) == [0, 0] for line in axis.lines)


def test_the_gain_of_a_single_pair_has_no_interval(tmp_path):
    figure = drawn(plots.plot_gains(gains_of(tmp_path, 2, seeds=1)))
    assert [container.lines[2] for container in figure.axes[0].containers] == [(), ()]


# Many arms, and runs that diverged


@pytest.mark.parametrize("figure_of", [plots.plot_overlay, plots.plot_cost_accuracy])
def test_more_arms_than_colours_stay_distinguishable_in_grey_too(tmp_path, figure_of):
    records = [record_of(tmp_path)]
    lines = lines_of(figure_of({f"arm {number}": records for number in range(20)}).axes[0])
    looks = {(str(line._dash_pattern), line.get_marker(), line.get_color()) for line in lines}
    assert len(lines) == len(looks) == 20
    assert len({line.get_marker() for line in lines[:10]}) == 10


def test_a_diverged_run_is_named_and_left_out_of_the_curves(tmp_path):
    arms = {"half": runs(tmp_path, (60, 61, 62), diverged=(1,)), "whole": runs(tmp_path, (60, 61))}
    figure = drawn(plots.plot_curves(arms))
    assert [axis.get_title() for axis in figure.axes[:2]] == ["half, 1 diverged", "whole"]
    for half, whole in zip(lines_of(figure.axes[0]), lines_of(figure.axes[1]), strict=True):
        assert half.get_xydata().tolist() == whole.get_xydata().tolist()
    assert legend_of(drawn(plots.plot_overlay(arms))) == ["half, 1 diverged", "whole"]
    assert legend_of(drawn(plots.plot_cost_accuracy(arms))) == ["half, 1 diverged", "whole"]


def test_an_arm_that_diverged_wholly_is_drawn_until_it_did(tmp_path):
    arms = {"small CNN": runs(tmp_path, (60, 61), diverged=(0, 1))}
    figure = drawn(plots.plot_curves(arms))
    assert figure.axes[0].get_title() == "small CNN, 2 diverged"
    assert list(lines_of(figure.axes[0])[0].get_xdata()) == [1, 2]
    confusion = drawn(plots.plot_confusion(arms, CLASSES))
    assert confusion.axes[0].get_title() == "small CNN, 2 diverged" and not confusion.axes[0].texts
    (points,) = lines_of(drawn(plots.plot_cost_accuracy(arms)).axes[0])
    assert points.get_xydata().tolist() == []


def test_a_confusion_matrix_leaves_out_and_names_a_diverged_run(tmp_path):
    figure = plots.plot_confusion({"small CNN": runs(tmp_path, (60, 61), diverged=(1,))}, CLASSES)
    other = plots.plot_confusion({"small CNN": [record_of(tmp_path)]}, CLASSES)
    shown, expected = ([text.get_text() for text in each.axes[0].texts] for each in (figure, other))
    assert shown == expected and "nan" not in shown and figure.axes[0].get_title() == "small CNN, 1 diverged"


def test_a_gain_without_its_diverged_pairs_says_so(tmp_path):
    alone = runs(tmp_path, (60, 61, 62))
    arms = {"half": runs(tmp_path, (63, 61, 65), diverged=(1,)), "lost": runs(tmp_path, (1, 1, 1), diverged=(0, 1, 2))}
    figure = drawn(
        plots.plot_gains([statistics.gain(records, alone, (name, "alone")) for name, records in arms.items()])
    )
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["half, 1 diverged", "lost, 3 diverged"]


def test_soft_labels_of_no_image_are_an_empty_figure(dataset):
    figure = drawn(plots.plot_soft_labels(dataset, np.array([], dtype=int), np.empty((0, 10), dtype=np.float32)))
    assert not figure.axes[1].containers and figure.axes[1].get_title() == "no test image is classified correctly"


# Binary networks


def test_estimators_show_the_functions_whose_slopes_they_show():
    functions, slopes = drawn(plots.plot_estimators()).axes
    (x, sign), *approximations = [line.get_data() for line in functions.lines]
    assert np.array_equal(sign, np.where(np.asarray(x) >= 0, 1, -1)) and len(slopes.lines) == len(approximations) == 2
    for (_, curve), line in zip(approximations, slopes.lines, strict=True):
        measured = np.gradient(np.asarray(curve, dtype=float), np.asarray(x, dtype=float))
        smooth = np.abs(np.abs(x) - 1) > 0.02  # away from the corners
        np.testing.assert_allclose(np.asarray(line.get_ydata())[smooth], measured[smooth], atol=0.01)


class Trained:
    """What a record offers of its network."""

    diverged = False

    def __init__(self, weight: float):
        self.model = build_model("wrn_16_1", 10, precision="xnor")
        for _, layer in binary_layers(self.model):
            torch.nn.init.constant_(layer.weight, weight)

    def load_model(self):
        return self.model


def test_latent_weights_are_shown_in_units_of_their_scale():
    figure = drawn(plots.plot_latent_weights({"up": [Trained(0.3)], "down": [Trained(-7.0)]}))
    (axis,) = figure.axes
    peaks = [line.get_xdata()[np.argmax(line.get_ydata())] for line in lines_of(axis)]
    assert peaks == pytest.approx([1, -1], abs=0.05) and "scale" in axis.get_xlabel()


def test_lambdas_are_a_line_for_each_optimiser_beside_xnor_with_both_values_marked(tmp_path):
    found = {"Adam": {None: 41.0, 0.0: 43.0, 1e-6: 43.5, 1e-4: 37.0}, "SGD": {None: 33.5, 0.0: 40.0, 1e-4: 33.0}}
    (axis,) = drawn(plots.plot_lambdas(lambda_arms(tmp_path, found), 1e-6)).axes
    lines = {line.get_label(): line for line in lines_of(axis)}
    assert lines["BONN, Adam"].get_xydata().tolist() == [[0.0, 43.0], [1e-6, 43.5], [1e-4, 37.0]]
    assert lines["BONN, SGD"].get_xydata().tolist() == [[0.0, 40.0], [1e-4, 33.0]]
    assert set(lines["XNOR, Adam"].get_ydata()) == {41.0} and set(lines["XNOR, SGD"].get_ydata()) == {33.5}
    assert set(lines["lambda used, 1e-06"].get_xdata()) == {1e-6}
    assert set(lines["lambda published, 0.0001"].get_xdata()) == {1e-4}
    assert axis.get_xscale() == "symlog" and -1e-6 < axis.get_xlim()[0] < 0 and axis.get_xlim()[1] > 1e-4
    tried = {"Adam": {None: 41.0, 1e-6: 43.5, 1e-4: 37.0}}
    (axis,) = drawn(plots.plot_lambdas(lambda_arms(tmp_path / "two", tried), 1e-6)).axes
    assert 0 < axis.get_xlim()[0] < 1e-6, "no tick at a value that was not tried"
