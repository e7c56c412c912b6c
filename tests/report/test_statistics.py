"""Spreads, gains and what predictions tell against SciPy, brute force and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_records import record_of, runs, spec_of
from scipy.stats import ttest_rel

from kdutils.distillation.methods import KD
from kdutils.errors import InputError
from kdutils.networks.binary import binary_layers
from kdutils.networks.registry import build_model
from kdutils.report import statistics

NAMES = ("taught", "alone")


# Spreads and what they are conditional on


@pytest.mark.parametrize(
    "values, digits, text",
    [
        ([1, 2, 3, 4], 2, "2.50 ± 1.29"),
        ([60.004], 2, "60.00"),
        ([1000, 3000], 0, "2,000 ± 1,414"),
        ([0.1, 0.2], 3, "0.150 ± 0.071"),
        ([58.0, float("nan"), 58.6], 2, "58.30 ± 0.42, 1 diverged"),
        ([58.0, None, float("inf")], 1, "58.0, 2 diverged"),
        ([float("nan")] * 2, 2, "diverged"),
        ([], 2, "diverged"),
    ],
)
def test_a_spread_is_mean_and_sample_deviation(values, digits, text):
    assert statistics.spread(values, digits) == text


def test_the_number_of_runs_says_how_many_diverged(tmp_path):
    assert statistics.count(runs(tmp_path, (1, 2, 3))) == 3
    assert statistics.count(runs(tmp_path, (1, 2, 3), diverged=(1,))) == "2, 1 diverged"


def test_the_value_of_a_diverged_run_does_not_count(tmp_path):
    records = runs(tmp_path, (60.0, 10.0, 62.0), diverged=(1,))
    assert statistics.values(records, "test") == [60.0, 62.0]
    assert statistics.values(records, "best val", "loss") == [1.3, 1.3]


def teacher(seed=0):
    return spec_of(seed, name="resnet18")


@pytest.mark.parametrize(
    "teachers, alone, views, text",
    [
        (lambda seed: (teacher(),), False, 2, "over seeds that share their views and one teacher"),
        (lambda seed: (teacher(),), True, 2, "over seeds that share their views (and one teacher)"),
        (lambda seed: (teacher(), teacher(1)), False, 2, "over seeds that share their views and their teachers"),
        (lambda seed: (teacher(seed),), False, 2, "over seeds that share their views"),  # each its own
        (lambda seed: (teacher(),), False, 1, "over seeds that share one teacher"),  # the images as they are
        (lambda seed: (), False, 2, "over seeds that share their views"),
        (lambda seed: (), False, 1, "over seeds"),
    ],
)
def test_conditions_are_read_from_the_records(tmp_path, teachers, alone, views, text):
    taught = [record_of(tmp_path, spec_of(seed, teachers=teachers(seed), views=views)) for seed in range(2)]
    arms = {"taught": taught, "one seed": taught[:1]} | (
        {"alone": runs(tmp_path, (1, 2), views=views)} if alone else {}
    )
    assert statistics.conditions(arms) == text
    assert statistics.conditions({"one seed": taught[:1]}) == "over seeds (only one here)"


# Gains


def test_a_gain_is_the_paired_t_interval(tmp_path):
    treated, control = (64.1, 66.3, 63.2, 65.9, 61.0), (62.0, 63.1, 62.8, 62.9, 61.5)
    found = statistics.gain(runs(tmp_path, treated, temperature=4.0), runs(tmp_path, control), NAMES)
    half = 2.7764451051977987 * np.std(np.subtract(treated, control), ddof=1) / np.sqrt(5)  # t(0.975; 4)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    assert found.mean == pytest.approx(np.mean(treated) - np.mean(control)) and found.n == 5
    assert found.sd == pytest.approx(np.std(np.subtract(treated, control), ddof=1))


def test_a_gain_pairs_runs_by_seed_whatever_their_order(tmp_path):
    treated, control = runs(tmp_path, (61.0, 72.0, 83.0)), runs(tmp_path, (60.0, 70.0, 80.0))
    found = statistics.gain(treated[::-1], control, NAMES)
    half = 4.302652729911275 / np.sqrt(3)  # differences 1, 2, 3: mean 2, SD 1, t(0.975; 2 degrees of freedom)
    assert (found.low, found.mean, found.high) == pytest.approx((2 - half, 2, 2 + half))


def test_a_gain_needs_the_same_seeds(tmp_path):
    with pytest.raises(InputError, match=r"equal seeds.*\[0, 1, 2\].*\[0, 1\]"):
        statistics.gain(runs(tmp_path, (60, 61, 62)), runs(tmp_path, (60, 61)), NAMES)
    several, control = runs(tmp_path, (60, 61)), runs(tmp_path / "control", (60, 61))
    with pytest.raises(InputError, match=r"each once, got \[0, 0, 1\]"):
        statistics.gain([several[0], *several], [control[0], *control], NAMES)


@pytest.mark.parametrize(
    "treated, verdict, answer",
    [
        ((63.0, 64.1, 62.9), "That is a gain: the interval lies above zero.", "Yes"),
        ((57.0, 55.9, 57.1), "That is a loss: the interval lies below zero.", "No, a loss"),
        (
            (58.0, 63.5, 60.1),
            "These runs cannot tell this from zero: the interval contains zero.",
            "It cannot be told",
        ),
        (
            (60.0, 60.0, 60.0),
            "These runs cannot tell this from zero: the interval contains zero.",
            "It cannot be told",
        ),
    ],
)
def test_the_sentence_says_what_the_interval_allows(tmp_path, treated, verdict, answer):
    found = statistics.gain(runs(tmp_path, treated), runs(tmp_path, (60.0, 60.0, 60.0)), ("the taught", "the untaught"))
    interval = f"[{found.low:+.2f}, {found.high:+.2f}] over seeds that share their views"
    start = f"Compared with the untaught, the taught changes test accuracy by {np.mean(treated) - 60:+.2f} points"
    assert found.sentence == f"{start}, 95% CI {interval}, n=3. {verdict}"
    between = f"[{found.low:+.2f}, {found.high:+.2f}]"
    assert found.answer == f"{answer}: {np.mean(treated) - 60:+.2f} points {between}, n=3"


def test_a_gain_says_that_its_students_share_one_teacher(tmp_path):
    taught = runs(tmp_path, (63, 64, 65), temperature=4.0)
    assert (
        "over seeds that share their views (and one teacher), n=3"
        in statistics.gain(taught, runs(tmp_path, (60, 61, 63)), NAMES).interval
    )
    assert "over seeds that share their views and one teacher, n=3" in statistics.gain(taught, taught, NAMES).interval
    others = [record_of(tmp_path, spec_of(seed, teachers=(teacher(1),))) for seed in range(3)]
    assert "their views and one teacher each, n=3" in statistics.gain(others, taught, NAMES).interval


def test_nothing_follows_from_a_single_pair(tmp_path, recwarn):
    found = statistics.gain(runs(tmp_path, (70.0,)), runs(tmp_path, (60.0,)), NAMES)
    start = "Compared with alone, taught changes test accuracy by +10.00 points (one pair: no interval). "
    assert found.sentence == start + "Nothing follows from fewer than two pairs."
    assert np.isnan([found.sd, found.low, found.high]).all() and not recwarn
    assert found.answer == "It cannot be told: +10.00 points (one pair: no interval)"


def test_nothing_follows_from_pairs_that_differ_by_the_same(tmp_path):
    found = statistics.gain(runs(tmp_path, (61.1, 62.1)), runs(tmp_path, (60.0, 61.0)), NAMES)
    assert found.sentence.endswith("Nothing follows from pairs that differ by the same: their interval has no width.")
    assert found.answer == "It cannot be told: +1.10 points [+1.10, +1.10], n=2"


def test_a_pair_with_a_diverged_run_is_left_out_and_said(tmp_path):
    treated = runs(tmp_path, (64.1, 10.0, 63.2, 65.9, 61.0), diverged=(1,))
    control = runs(tmp_path, (62.0, 63.1, 62.8, 10.0, 61.5), diverged=(3,))
    found = statistics.gain(treated, control, NAMES)
    expected = ttest_rel((64.1, 63.2, 61.0), (62.0, 62.8, 61.5)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.n, found.diverged) == (3, 2) and "n=3, 2 diverged." in found.sentence


def test_no_pair_left_is_said(tmp_path, recwarn):
    found = statistics.gain(runs(tmp_path, (64.0, 65.0), diverged=(0, 1)), runs(tmp_path, (60.0, 61.0)), NAMES)
    assert (found.n, found.diverged) == (0, 2) and not recwarn
    assert found.interval == "an unknown amount (no pair, 2 diverged: no interval)" and "nan" not in found.sentence


# The chosen cell


def test_the_best_cell_is_chosen_on_validation_alone(tmp_path):
    better_on_test = record_of(tmp_path, spec_of(temperature=2.0), val=50.0, test=99.0, best_val=(99.0, 0.1))
    better_on_validation = record_of(tmp_path, spec_of(temperature=4.0), val=51.0, test=1.0)
    assert statistics.best_cell([better_on_test, better_on_validation]) == KD(temperature=4.0, kd_weight=0.5)


def test_a_tie_goes_to_the_lower_validation_loss(tmp_path):
    losses = {2.0: 1.5, 4.0: 1.3, 8.0: 1.4}
    records = [record_of(tmp_path, spec_of(temperature=t), val=50.0, val_loss=loss) for t, loss in losses.items()]
    assert statistics.best_cell(records).temperature == statistics.best_cell(records[::-1]).temperature == 4.0


def test_a_tie_of_both_goes_to_the_first_of_the_grid(tmp_path):
    records = [record_of(tmp_path, spec_of(temperature=t), val=50.0) for t in (4.0, 2.0)]
    assert statistics.best_cell(records).temperature == 4.0


def test_neither_a_student_alone_nor_a_diverged_run_is_chosen(tmp_path):
    alone = record_of(tmp_path, spec_of(), val=90.0)
    diverged = record_of(tmp_path, spec_of(temperature=2.0), val=80.0, diverged=True)
    taught = record_of(tmp_path, spec_of(temperature=4.0, kd_weight=0.9), val=40.0)
    assert statistics.best_cell([alone, diverged, taught]) == KD(temperature=4.0, kd_weight=0.9)
    with pytest.raises(InputError, match="every taught run, if any, diverged"):
        statistics.best_cell([alone, diverged])


@pytest.mark.parametrize(
    "taught, verdict", [((61.0, 62.2, 61.6), "These runs cannot tell"), ((63.0, 64.2, 63.4), "differ")]
)
def test_two_gains_are_told_apart_by_their_difference_seed_by_seed(tmp_path, taught, verdict):
    """Not by one interval that contains zero and one that does not."""
    control, others = runs(tmp_path, (60.0, 60.0, 60.0)), runs(tmp_path, (60.5, 62.0, 60.5))
    gains = [statistics.gain(records, control, ("x", "y")) for records in (runs(tmp_path, taught), others)]
    direct = statistics.gain(runs(tmp_path, taught), others, NAMES)
    said = statistics.apart(*gains)
    assert f"is {direct.interval}." in said and verdict in said
    diverged = statistics.gain(runs(tmp_path, taught, diverged=(1,)), control, NAMES)
    assert "n=2, 1 diverged" in statistics.apart(diverged, gains[1])
    with pytest.raises(InputError, match="equal seeds are compared, got 0, 1, 2 and 0, 1"):
        statistics.apart(gains[0], statistics.gain(runs(tmp_path, taught[:2]), control[:2], NAMES))


def test_a_binomial_standard_error(tmp_path):
    assert statistics.standard_error([record_of(tmp_path, val=50.0)]) == pytest.approx(5.0)
    several = [record_of(tmp_path, val=value) for value in (70.0, 90.0)] + [record_of(tmp_path, val=1.0, diverged=True)]
    assert statistics.standard_error(several) == pytest.approx(4.0)  # at 80 %
    assert statistics.standard_error([record_of(tmp_path, val=100.0)]) == pytest.approx(100 * np.sqrt(0.0099 / 100))


# What the predictions tell


def test_confusion_counts_every_image(tmp_path):
    random = np.random.RandomState(3)
    labels = random.randint(0, 9, 200)  # the last class never occurs
    logits = random.normal(size=(200, 10)) + np.eye(10)[labels]
    found = statistics.confusion([record_of(tmp_path, logits=logits, labels=labels)])
    predicted = logits.astype(np.float32).argmax(1)
    for true in range(10):
        of_this_class = [p for p, label in zip(predicted, labels, strict=True) if label == true]
        expected = [100 * of_this_class.count(other) / max(1, len(of_this_class)) for other in range(10)]
        assert found[true].tolist() == pytest.approx(expected)


def test_confusion_is_the_mean_over_the_runs_that_did_not_diverge(tmp_path):
    labels = np.arange(10)
    decided = (labels, np.zeros(10, dtype=int))
    records = [record_of(tmp_path, logits=np.eye(10)[decisions], labels=labels) for decisions in decided]
    found = statistics.confusion([*records, record_of(tmp_path, diverged=True)])
    assert (found[0, 0], found[3, 3], found[3, 0], found[3, 4]) == (100, 50, 50, 0)


def test_agreement_is_the_share_of_equal_decisions(tmp_path):
    decided = ([0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 7, 6])
    labels = np.zeros(8, dtype=int)
    first, second = (record_of(tmp_path, logits=np.eye(10)[each], labels=labels) for each in decided)
    assert statistics.agreement(first, second) == statistics.agreement(second, first) == 75.0
    assert statistics.agreement(first, first) == 100.0
    fewer = record_of(tmp_path, logits=first.predictions[0][:8], labels=first.predictions[1][:8])
    assert statistics.agreement(fewer, first) == statistics.agreement(first, fewer) == 100.0  # on the images of both
    diverged = [record_of(tmp_path, diverged=True) for _ in range(2)]
    assert np.isnan(statistics.agreement(*diverged))


def confident(*confidences):
    """Logits [N, 2] whose softmax gives class 0 these probabilities."""
    return np.log(np.array([[c, 1 - c] for c in confidences]))


def test_calibration_error_of_a_hand_made_case(tmp_path):
    # bins of width 1/15: 0.9 twice, once right: |0.5 - 0.9|; 0.6 and 0.61 (another bin), both right: 0.4 and 0.39
    record = record_of(tmp_path, logits=confident(0.9, 0.9, 0.58, 0.61), labels=np.array([0, 1, 0, 0]))
    expected = 100 * (0.5 * 0.4 + 0.25 * 0.42 + 0.25 * 0.39)
    assert statistics.calibration_error(record) == pytest.approx(expected, abs=1e-4)


def test_calibration_error_by_brute_force(tmp_path):
    random = np.random.RandomState(8)
    logits, labels = random.normal(0, 2, (300, 10)).astype(np.float32), random.randint(0, 10, 300)
    expected, share = 0.0, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for low in range(15):
        inside = (share.max(1) > low / 15) & (share.max(1) <= (low + 1) / 15)
        if inside.any():
            right = (logits.argmax(1) == labels)[inside].mean()
            expected += 100 * inside.mean() * abs(share.max(1)[inside].mean() - right)
    found = statistics.calibration_error(record_of(tmp_path, logits=logits, labels=labels))
    assert found == pytest.approx(expected, rel=1e-4)


def test_errors_within_a_bin_cancel_and_between_bins_do_not(tmp_path):
    same_bin = record_of(tmp_path, logits=confident(0.75, 0.75, 0.75, 0.75), labels=np.array([0, 0, 0, 1]))
    assert statistics.calibration_error(same_bin) == pytest.approx(0, abs=1e-4)
    two_bins = record_of(tmp_path, logits=confident(0.55, 0.95), labels=np.array([0, 1]))
    assert statistics.calibration_error(two_bins) == pytest.approx(100 * (0.45 + 0.95) / 2, abs=1e-4)


def test_certainty_belongs_to_the_last_bin(tmp_path):
    record = record_of(tmp_path, logits=np.array([[1000.0, 0.0], [0.0, 1000.0]]), labels=np.array([0, 1]))
    assert statistics.calibration_error(record) == 0.0


# Telling images

CLEAR, STEEP, FLAT, TIED, WRONG = (
    (0.60, 0.30, 0.05, 0.05),  # two clear steps
    (0.97, 0.02, 0.005, 0.005),  # nothing but the top shows
    (0.26, 0.25, 0.25, 0.24),
    (0.45, 0.44, 0.06, 0.05),  # no top
    (0.30, 0.60, 0.05, 0.05),  # taken for its runner-up
)


def telling(folder, *images, count=4):
    """The chosen of `images`, each a label and the probabilities of that class, of the next, and so on."""
    logits = [np.roll(np.log([*shares, *[1e-6] * 6]), label) for label, shares in images]
    record = record_of(folder, logits=np.array(logits), labels=np.array([label for label, _ in images]))
    return statistics.telling_images(record, count).tolist()


def test_telling_images_have_a_clear_top_and_one_clear_runner_up(tmp_path):
    assert telling(tmp_path, (0, FLAT), (0, STEEP), (0, CLEAR), (0, TIED), (0, WRONG)) == [2]


@pytest.mark.parametrize(
    "vague, clear",
    [
        ((0.50, 0.28, 0.16, 0.06), (0.80, 0.11, 0.03, 0.03)),  # a third beside the runner-up
        ((0.48, 0.42, 0.05, 0.05), (0.90, 0.07, 0.02, 0.01)),  # hardly a top
    ],
)
def test_clear_steps_come_before_large_ones(tmp_path, vague, clear):
    assert telling(tmp_path, (0, vague), (0, clear), (1, vague)) == [1]


def test_telling_images_are_of_different_classes_the_clearest_first(tmp_path):
    better = (0.65, 0.33, 0.01, 0.01)
    assert telling(tmp_path, (0, CLEAR), (1, CLEAR), (1, better), (2, STEEP), (3, FLAT)) == [2, 0, 3]
    assert telling(tmp_path, (0, CLEAR), (1, CLEAR), (1, better), (2, STEEP), (3, FLAT), count=2) == [2, 0]


def test_fewer_images_rather_than_wrong_ones(tmp_path):
    assert telling(tmp_path, (0, WRONG), (1, CLEAR), (2, WRONG)) == [1]
    assert telling(tmp_path, (0, WRONG), (1, WRONG)) == []


def test_a_weak_teacher_shows_its_least_flat_images(tmp_path):
    slightly = (0.30, 0.26, 0.23, 0.21)
    assert telling(tmp_path, (0, FLAT), (0, slightly), (1, WRONG)) == [1]


def test_telling_images_of_two_classes(tmp_path):
    record = record_of(tmp_path, logits=confident(0.51, 0.7, 0.4), labels=np.array([0, 0, 1]))
    assert statistics.telling_images(record).tolist() in ([1, 2], [2, 1])


def test_a_diverged_teacher_has_no_telling_image(tmp_path):
    assert statistics.telling_images(record_of(tmp_path, diverged=True)).tolist() == []


# Binary networks


def test_the_clipped_share_counts_the_weights_without_a_gradient():
    for precision in ("bonn", "xnor"):
        model = build_model("wrn_16_1", 10, precision=precision)
        without, count = 0, 0
        for _, layer in binary_layers(model):
            torch.nn.init.normal_(layer.weight, std=0.7)
            signs, _ = layer.signs_and_scale()
            (gradient,) = torch.autograd.grad(signs.sum(), layer.weight)
            without, count = without + int((gradient == 0).sum()), count + gradient.numel()
        assert 0 < without < count and statistics.clipped_share(model) == pytest.approx(100 * without / count)
        torch.nn.init.constant_(layer.weight, float("nan"))
        assert np.isnan(statistics.clipped_share(model))


def test_a_lead_is_counted_on_the_images_that_all_saw(tmp_path):
    labels = np.array([0, 1, 2, 3], dtype=np.uint8)
    few = record_of(tmp_path, spec_of(seed=1), logits=np.eye(10)[[0, 1]], labels=labels[:2])  # 2 of 2
    many = record_of(tmp_path, spec_of(seed=2), logits=np.eye(10)[[0, 5, 2, 3]], labels=labels)  # 1 of 2, 3 of 4
    assert statistics.lead([few], [many]) == 50 and statistics.lead([many], [many]) == 0
    gone = record_of(tmp_path, spec_of(seed=3), diverged=True)
    assert np.isnan(statistics.lead([few], [gone]))
