"""What a report opens with: a row for every published accuracy and gain, a sentence that counts, a figure of seeds."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fake_records import runs
from matplotlib.colors import to_rgb

from kdutils.report import plots, tables
from kdutils.report.answers import Answer, answers, answers_caption, answers_sentence, answers_table
from kdutils.report.results import Results
from kdutils.report.statistics import Gain, gain

ALONE, BETTER, WORSE = (62.0, 64.5, 63.0), (67.0, 69.0, 68.5), (52.0, 54.0, 53.5)


def chapter(study: str, *shown) -> dict:
    found = {"study": study, "setting": "CIFAR-10.", "arms": {}, "gains": {}}
    for table in shown:
        for part, described in table.attrs["results"].items():
            found[part] |= described
    return found


@pytest.fixture
def found(tmp_path):
    """Chapters 1 and 9 of study A, which show the same arm and gain, and one of study C."""
    alone, better = runs(tmp_path / "alone", ALONE), runs(tmp_path / "better", BETTER, temperature=4.0)
    worse = runs(tmp_path / "worse", WORSE, views=1)
    small = tables.compare({"small CNN": alone}, "assignment")
    gains = [gain(better, alone, ("better", "alone")), gain(worse, alone, ("worse", "alone"))]
    gains.append(gain(alone, alone[::-1], ("itself", "alone")))
    other = tables.compare(
        {"teacher pretrained": better, "student alone": runs(tmp_path / "c", (99.0,))}, "teacher-init"
    )
    chapters = {
        "01_x": chapter("assignment", small),
        "07_x": chapter("teacher-init", other),
        "09_x": chapter("assignment", small, tables.gains_table(gains)),
    }
    return answers(Results.model_validate({"format": "kdutils results 1", "facts": {}, "chapters": chapters}))


def test_every_published_accuracy_and_gain_has_one_row(found):
    table = answers_table(found)
    rows = [tuple(row)[1:3] + tuple(row)[6:] for row in table.itertuples(index=False)]
    assert rows == [
        ("small CNN", "test", "62.43", "+0.74"),
        ("small CNN", "validation", "63.40", "-13.40"),
        ("better against alone", "test", "–", "–"),
        ("worse against alone", "test", "–", "–"),
        ("itself against alone", "test", "–", "–"),
        ("student alone", "test", "67.51", "+31.49"),
        ("teacher pretrained", "test", "87.54", "-19.37"),
    ]
    assert [name[:2] for name in table["document"].unique()] == ["A:", "C:"]


def test_ours_stand_with_spread_interval_and_number(found):
    (first, *_), (alone, *_) = found.values()
    half = 4.302653 * np.std(ALONE, ddof=1) / np.sqrt(3)  # the 97.5% quantile of Student's t with 2 degrees of freedom
    interval = f"[{np.mean(ALONE) - half:.2f}, {np.mean(ALONE) + half:.2f}]"
    assert first.cells[2:5] == (f"{np.mean(ALONE):.2f} ± {np.std(ALONE, ddof=1):.2f}", interval, "3")
    assert alone.cells[2:5] == ("99.00", "–", "1")
    (better,) = [row for row in found["A: four classifiers"] if row.what == "better against alone"]
    assert better.cells[3] == f"[{better.ours.low:+.2f}, {better.ours.high:+.2f}]"


def test_without_a_published_value_all_test_accuracies_stand_there_once(tmp_path):
    alone, better = runs(tmp_path / "alone", ALONE), runs(tmp_path / "better", BETTER, temperature=4.0)
    both = chapter("assignment", tables.metrics_table({"small CNN": alone, "mine": better, "again": better}))
    both["gains"] = tables.gains_table([gain(better, alone, ("better", "alone"))]).attrs["results"]["gains"]
    chapters = {"01_x": chapter("assignment", tables.metrics_table({"small CNN": alone})), "03_x": both}
    found = answers(Results.model_validate({"format": "kdutils results 1", "facts": {}, "chapters": chapters}))
    rows = [row.cells[:3] for row in found["A: four classifiers"]]
    assert [row[:2] for row in rows] == [("small CNN", "test"), ("mine", "test"), ("better against alone", "test")]
    assert rows[1][2] == f"{np.mean(BETTER):.2f} ± {np.std(BETTER, ddof=1):.2f}"
    figure = plots.plot_answers(found)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["A: four classifiers", "small CNN, test", "mine, test"]
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:] == ["ours: every seed"]
    plt.close(figure)


def test_the_sentence_counts_what_the_intervals_allow(found):
    assert answers_sentence(found) == (
        "Paired differences in test accuracy: 1 above zero with the whole 95% interval, 1 below, 1 not to be told from "
        "zero. Each interval holds by itself: about one in twenty misses by chance. Ours is higher than 2 of 4 "
        "published accuracies."
    )
    assert answers_sentence({}) == ""


def test_synthetic_images_are_not_counted_beside_what_is_published_of_cifar(tmp_path):
    shown = tables.compare({"small CNN": runs(tmp_path, ALONE, dataset="synthetic")}, "assignment")
    chapters = {"01_x": chapter("assignment", shown)}
    found = answers(Results.model_validate({"format": "kdutils results 1", "facts": {}, "chapters": chapters}))
    (test, *_) = found["A: four classifiers"]
    assert test.cells[-2:] == ("62.43", "–") and answers_sentence(found) == ""


def test_the_caption_says_what_the_gains_are_conditional_on(found):
    one = next(row.ours for rows in found.values() for row in rows if isinstance(row.ours, Gain))

    def caption(*conditions: str) -> str:
        return answers_caption({"A": [Answer("a gain", "test", one.with_(over=over)) for over in conditions]})

    views = "over seeds that share their views"
    assert one.over == f"{views} (and one teacher)"
    assert caption(one.over).endswith(f", its interval {one.over}. The interval does not cover other test images.")
    assert ", its interval over one seed; over seeds." in caption("over one seed", "over seeds")
    assert "share some of these, as each chapter says: their views, one teacher." in caption(views, one.over)


def test_all_that_diverged_is_said(tmp_path):
    lost = tables.compare({"small CNN": runs(tmp_path, ALONE, diverged=(0, 1, 2))}, "assignment")
    chapters = {"01_x": chapter("assignment", lost)}
    found = answers(Results.model_validate({"format": "kdutils results 1", "facts": {}, "chapters": chapters}))
    assert answers_table(found)["ours (%)"].eq("diverged").all()
    assert answers_table(found)["n"].eq("0, 3 diverged").all() and answers_sentence(found) == ""
    plt.close(plots.plot_answers(found))


def test_the_figure_shows_every_seed_the_interval_and_the_published_value(found):
    figure = plots.plot_answers(found)
    (axis,) = figure.axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert len(labels) == 6 and labels[1] == "small CNN, test"  # two documents and four networks: gains have no percent
    dots = [line.get_xdata() for line in axis.lines if line.get_marker() == "o" and 1 in line.get_ydata()]
    assert [list(each) for each in dots] == [list(ALONE)]
    diamonds = {line.get_ydata()[0]: line.get_xdata()[0] for line in axis.lines if line.get_marker() == "D"}
    assert diamonds == {1: 62.43, 2: 63.4, 4: 67.51, 5: 87.54}
    (segment,) = axis.containers[0].lines[2][0].get_segments()
    row = next(iter(found.values()))[0]
    assert segment[:, 0] == pytest.approx(row.ours.bounds)
    plt.close(figure)


def test_ours_and_the_published_differ_in_shape_and_in_grey(found):
    figure = plots.plot_answers(found)
    faces = {line.get_marker(): line.get_markerfacecolor() for line in figure.axes[0].lines}
    looks = {marker: to_rgb("white" if face == "none" else face) for marker, face in faces.items()}  # as on paper
    grey = {marker: np.dot(colour, (0.299, 0.587, 0.114)) for marker, colour in looks.items()}
    assert grey["D"] - grey["o"] > 0.4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "ours: mean and 95% interval",
        "ours: every seed",
        "published",
    ]
    plt.close(figure)
