"""Figures that explain show what their formulas say, and those of seeds and confidence what the records hold."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fake_records import record_of, spec_of

from kdutils.report import costs, teaching
from kdutils.report.statistics import calibration_error, reliability


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def test_targets_go_from_the_label_to_no_statement():
    z = torch.tensor([3.0, 1.0, 0.0])
    axes = teaching.plot_temperatures(z.numpy(), ("a", "b", "c"), (0.5, 2, np.inf)).axes
    for axis, temperature in zip(axes, (0.5, 2.0, float("inf")), strict=True):
        shown = [bar.get_width() for bar in axis.patches]
        assert shown == pytest.approx((z / temperature).softmax(0).tolist(), abs=1e-6)


def test_of_many_classes_the_likeliest_are_shown():
    z = np.linspace(0, 5, 1000)
    figure = teaching.plot_temperatures(z, [f"class {number}" for number in range(1000)], (1, 2))
    assert (
        figure.get_figheight() < 6
        and [label.get_text() for label in figure.axes[0].get_yticklabels()][-1] == "class 999"
    )
    shown = [bar.get_width() for bar in figure.axes[0].patches]
    assert shown == pytest.approx((np.exp(z) / np.exp(z).sum())[-20:].tolist())


def test_gradients_are_those_of_the_divergence():
    teacher, student = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0], requires_grad=True)
    alone, factored, _ = teaching.plot_gradients(teacher.numpy(), student.detach().numpy(), 0).axes[0].lines
    for place in (0, 50, 99):
        temperature = alone.get_xdata()[place]
        p, q = (teacher / temperature).softmax(0), (student / temperature).softmax(0)
        (gradient,) = torch.autograd.grad((p * (p / q).log()).sum(), student)
        assert alone.get_ydata()[place] == pytest.approx(gradient.norm().item(), rel=1e-3)
        assert factored.get_ydata()[place] == pytest.approx(temperature**2 * gradient.norm().item(), rel=1e-3)


def test_means_of_teachers_are_those_by_hand():
    sure_and_unsure = torch.tensor([[[64.0, 1.0, 1.0]], [[1.0, 4.0, 1.0]]]).log()
    bars, curves = teaching.plot_means(sure_and_unsure, ("sure", "unsure"), ("a", "b", "c")).axes
    sure, unsure, geometric, arithmetic = ([bar.get_height() for bar in bars] for bars in bars.containers)
    assert sure == pytest.approx([64 / 66, 1 / 66, 1 / 66]) and unsure == pytest.approx([1 / 6, 4 / 6, 1 / 6])
    assert geometric == pytest.approx([8 / 11, 2 / 11, 1 / 11])  # the roots of 64, 4 and 1, by their sum
    assert arithmetic == pytest.approx([(s + u) / 2 for s, u in zip(sure, unsure, strict=True)])
    by_temperature = [line.get_ydata() for line in curves.lines]
    assert [line[0] for line in by_temperature] == pytest.approx(
        [bar[0] for bar in (sure, unsure, geometric, arithmetic)]
    )
    assert by_temperature[2][-1] == pytest.approx(2 ** (3 / 16) / (2 ** (3 / 16) + 2 ** (1 / 16) + 1), abs=1e-5)


def test_signs_keep_the_counts_and_the_mean_magnitude():
    weights = np.array([-0.4, -0.1, 0.0, 0.3])
    bars = teaching.plot_signs(weights).axes[1].patches
    assert [bar.get_height() for bar in bars] == [2, 2]
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == pytest.approx([-0.2, 0.2])


def test_reliability_pools_the_runs_and_is_what_the_calibration_error_averages(tmp_path):
    random = np.random.RandomState(3)
    made = [random.normal(0, 2, (200, 10)).astype(np.float32) for _ in range(2)]
    records = [
        record_of(tmp_path, spec_of(seed), logits=logits, labels=random.randint(0, 10, 200))
        for seed, logits in enumerate(made)
    ]
    confidence, accuracy, share = reliability(records)
    right = [(record.predictions[0].argmax(1) == record.predictions[1]).mean() for record in records]
    assert share.sum() == pytest.approx(1) and (share * accuracy).sum() == pytest.approx(np.mean(right))
    confidence, accuracy, share = reliability(records[:1])
    assert calibration_error(records[0]) == pytest.approx(100 * (share * abs(confidence - accuracy)).sum())
    points = teaching.plot_reliability({"small CNN": records[:1]}).axes[0].collections[0].get_offsets()
    assert np.allclose(points, np.stack([confidence, accuracy], 1))


def test_the_picture_names_who_takes_part():
    words = " ".join(text.get_text() for text in teaching.plot_setup().axes[0].texts)
    assert all(word in words for word in ("teacher", "student", "table", "label", "loss", "once"))


def test_a_run_that_is_shown_twice_takes_its_time_once(tmp_path):
    record = record_of(tmp_path, spec_of(0))
    once = costs.time_sentence([record])
    assert costs.time_sentence({"arm": [record]}, [record]) == once and "the 1 run shown" in once
