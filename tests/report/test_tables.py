"""Tables and sentences against SciPy, brute force, hand-made cases and the published numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fake_records import CLASSES, record_of, spec_of
from scipy.stats import ttest_rel

from kdutils import analysis
from kdutils.data.datasets import Dataset
from kdutils.data.views import split_indices
from kdutils.errors import InputError
from kdutils.networks.binary import binary_layers
from kdutils.networks.registry import build_model
from kdutils.runs.records import Record
from kdutils.specs import DataSpec

TASK3, TASK4 = "assignment/one-teacher", "assignment/two-teachers"
PUBLISHED = {  # study, classifier, split: accuracy (%), loss (nats)
    ("assignment", "small CNN", "train"): (57.84, 1.1739),
    ("assignment", "small CNN", "val"): (63.40, 1.0587),
    ("assignment", "small CNN", "test"): (62.43, None),
    ("assignment", "ResNet18", "train"): (79.99, 0.5757),
    ("assignment", "ResNet18", "val"): (78.00, 0.6967),
    ("assignment", "ResNet50", "train"): (81.18, 0.5292),
    ("assignment", "ResNet50", "val"): (80.20, 0.6040),
    (TASK3, "ResNet50", "best val"): (83.98, 0.8913),
    (TASK3, "small CNN", "best val"): (62.25, 1.3488),
    (TASK3, "distilled from ResNet50", "best val"): (66.34, 1.2700),
    (TASK4, "ResNet18", "best val"): (81.1, 0.95),
    (TASK4, "small CNN", "best val"): (62.8, 1.35),
    (TASK4, "distilled from ResNet18", "best val"): (65.7, 1.29),
}


def runs(folder, accuracies, **fields):
    return [record_of(folder, spec_of(seed, **fields), test=accuracy) for seed, accuracy in enumerate(accuracies)]


# Spreads and gains


@pytest.mark.parametrize(
    "values, digits, text",
    [
        ([1, 2, 3, 4], 2, "2.50 ± 1.29"),
        ([60.004], 2, "60.00"),
        ([1000, 3000], 0, "2,000 ± 1,414"),
        ([0.1, 0.2], 3, "0.150 ± 0.071"),
    ],
)
def test_a_spread_is_mean_and_sample_deviation(values, digits, text):
    assert analysis.spread(values, digits) == text


def test_a_gain_is_the_paired_t_interval(tmp_path):
    treated, control = (64.1, 66.3, 63.2, 65.9, 61.0), (62.0, 63.1, 62.8, 62.9, 61.5)
    found = analysis.gain(runs(tmp_path, treated, temperature=4.0), runs(tmp_path, control), ("taught", "alone"))
    expected = ttest_rel(treated, control).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(treated) - np.mean(control)) and found.n == 5
    assert found.deviation == pytest.approx(np.std(np.subtract(treated, control), ddof=1))


def test_a_gain_pairs_runs_by_seed_whatever_their_order(tmp_path):
    treated, control = runs(tmp_path, (61.0, 72.0, 83.0)), runs(tmp_path, (60.0, 70.0, 80.0))
    found = analysis.gain(treated[::-1], control, ("taught", "alone"))
    half = 4.302652729911275 / np.sqrt(3)  # differences 1, 2, 3: mean 2, SD 1, t(0.975; 2 degrees of freedom)
    assert (found.low, found.mean, found.high) == pytest.approx((2 - half, 2, 2 + half))


def test_a_gain_needs_the_same_seeds(tmp_path):
    with pytest.raises(InputError, match=r"equal seeds.*\[0, 1, 2\].*\[0, 1\]"):
        analysis.gain(runs(tmp_path, (60, 61, 62)), runs(tmp_path, (60, 61)), ("taught", "alone"))


@pytest.mark.parametrize(
    "treated, verdict",
    [
        ((63.0, 64.1, 62.9), "That is a gain: the interval lies above zero."),
        ((57.0, 55.9, 57.1), "That is a loss: the interval lies below zero."),
        ((58.0, 63.5, 60.1), "That is no gain that these runs could tell from zero: the interval holds zero."),
        ((60.0, 60.0, 60.0), "That is no gain that these runs could tell from zero: the interval holds zero."),
    ],
)
def test_the_sentence_says_what_the_interval_allows(tmp_path, treated, verdict):
    found = analysis.gain(runs(tmp_path, treated), runs(tmp_path, (60.0, 60.0, 60.0)), ("the taught", "the untaught"))
    mean = np.mean(treated) - 60
    assert found.sentence.startswith(
        f"Against the untaught, the taught changes test accuracy by {mean:+.2f} points, 95% CI [{found.low:+.2f}, {found.high:+.2f}], n=3."
    )
    assert found.sentence.endswith(verdict)


def test_nothing_follows_from_a_single_pair(tmp_path):
    found = analysis.gain(runs(tmp_path, (70.0,)), runs(tmp_path, (60.0,)), ("taught", "alone"))
    assert (
        found.sentence
        == "With one pair of runs, taught differs from alone by +10.00 points (one pair: no interval): nothing follows from a single pair."
    )
    assert np.isnan([found.deviation, found.low, found.high]).all()


def test_the_table_of_gains_has_a_row_for_each(tmp_path):
    alone = runs(tmp_path, (60.0, 70.0, 80.0))
    found = [
        analysis.gain(runs(tmp_path, values), alone, (name, "alone"))
        for name, values in {"one": (61, 72, 83), "two": (59, 70, 81)}.items()
    ]
    table = analysis.gains_table(found)
    assert table.to_dict("records") == [
        {
            "classifier": "one",
            "against": "alone",
            "gain (points)": "+2.00",
            "SD": "1.00",
            "95% CI": "[-0.48, +4.48]",
            "pairs": 3,
        },
        {
            "classifier": "two",
            "against": "alone",
            "gain (points)": "+0.00",
            "SD": "1.00",
            "95% CI": "[-2.48, +2.48]",
            "pairs": 3,
        },
    ]


def test_the_table_of_gains_shows_no_interval_for_a_single_pair(tmp_path):
    table = analysis.gains_table([analysis.gain(runs(tmp_path, (70.0,)), runs(tmp_path, (60.0,)), ("taught", "alone"))])
    assert table["gain (points)"][0] == "+10.00" and table["pairs"][0] == 1
    assert "nan" not in table.astype(str).to_csv()


# Ours beside published


@pytest.mark.parametrize("study, classifier, split", PUBLISHED, ids=str)
def test_every_published_number_stands_in_the_csv(study, classifier, split):
    table = analysis.published(study)
    rows = table[(table["arm"] == classifier) & (table["split"] == split)]
    accuracy, loss = PUBLISHED[study, classifier, split]
    expected = {"accuracy": accuracy} | ({"loss": loss} if loss else {})
    assert dict(zip(rows["metric"], rows["value"])) == expected


def test_nothing_else_is_called_published():
    assert sum(len(analysis.published(study)) for study in ("assignment", TASK3, TASK4)) == sum(
        2 - (loss is None) for _, loss in PUBLISHED.values()
    )


@pytest.mark.parametrize(
    "study, expected",
    [
        ("binary", {"WideResNet, stem binary": 70.2, "WideResNet, BONN": 70.2, "ResNet18": 75.5, "reduced CNN, distilled": 80.1}),
        ("binary/wrn-22", {f"WRN-22 ({width}), {kind}": value for width, values in (("16-16-32-64", (91.66, 81.90, 87.34)), ("64-64-128-256", (94.96, 88.52, 92.36)))
                           for kind, value in zip(("full precision", "XNOR", "BONN"), values)}),
    ],
)  # fmt: skip
def test_the_accuracies_of_study_b_stand_in_the_csv(study, expected):
    rows = analysis.published(study).query("metric == 'accuracy'")
    assert dict(zip(rows["arm"], rows["value"])) == expected and set(rows["split"]) == {"test"}


def test_what_was_not_run_is_said_where_that_is_asked_for(tmp_path):
    arms = {"ResNet18": runs(tmp_path, (76.5,))}
    assert list(analysis.compare(arms, "binary")["classifier"]) == ["ResNet18"]
    table = analysis.compare(arms, "binary", absent="show").set_index("classifier")
    assert len(table) == 4 and (table.loc["ResNet18", "ours"], table.loc["ResNet18", "difference"]) == (
        "76.50",
        "+1.00",
    )
    missing = table.loc["reduced CNN, distilled"]
    assert (missing["ours"], missing["n"], missing["published"], missing["difference"]) == (
        "not yet run",
        0,
        "80.1",
        "–",
    )


def test_an_unknown_study_is_an_error_that_names_the_known_ones():
    with pytest.raises(InputError, match=f"'homework'.*assignment, {TASK3}, {TASK4}"):
        analysis.published("homework")


def test_a_comparison_has_a_row_for_every_published_value_of_an_arm(tmp_path):
    arms = {"small CNN": runs(tmp_path, (64.43, 66.43)), "not published": runs(tmp_path, (1.0,))}
    table = analysis.compare(arms, "assignment").set_index(["split", "metric"])
    assert set(table["classifier"]) == {"small CNN"} and len(table) == 5
    test = table.loc[("test", "accuracy (%)")]
    assert (test["ours"], test["n"], test["published"], test["difference"], test["remark"]) == (
        "65.43 ± 1.41",
        2,
        "62.43",
        "+3.00",
        "Task 1",
    )
    loss = table.loc[("val", "loss (nats)")]
    assert (loss["ours"], loss["published"], loss["difference"]) == ("1.400 ± 0.000", "1.0587", "+0.341")


def test_task_3_is_compared_by_the_best_epoch_on_validation(tmp_path):
    student = record_of(tmp_path, spec_of(temperature=4.0), val=50.0, best_val=(64.34, 1.17))
    table = analysis.compare({"distilled from ResNet50": [student]}, TASK3).set_index("metric")
    assert table["ours"].to_dict() == {"accuracy (%)": "64.34", "loss (nats)": "1.170"}
    assert table["difference"].to_dict() == {"accuracy (%)": "-2.00", "loss (nats)": "-0.100"}


def test_sentences_beside_the_published_values_say_more_or_less(tmp_path):
    arms = {"small CNN": [record_of(tmp_path, val=65.40, test=60.43)]}
    assert analysis.beside(arms, "assignment").splitlines() == [
        "- small CNN, val: 65.40 % here (n=1), 63.4 % in the document, 2.00 points more.",
        "- small CNN, test: 60.43 % here (n=1), 62.43 % in the document, 2.00 points less.",
    ]


# Tables of runs


def test_the_table_of_metrics_leaves_out_a_split_that_was_not_there(tmp_path):
    table = analysis.metrics_table({"alone": runs(tmp_path, (60.0,), val_size=0)})
    assert "test (%)" in table and not [column for column in table if column.startswith("val")]


def test_the_table_of_metrics_gives_every_split_with_its_number_of_runs(tmp_path):
    table = analysis.metrics_table(
        {"alone": runs(tmp_path, (60.0, 62.0)), "taught": runs(tmp_path, (63.0,), temperature=2.0)}
    )
    assert table.iloc[0].to_dict() == {
        "classifier": "alone", "n": 2, "train loss": "1.500 ± 0.000", "train (%)": "45.00 ± 0.00", "val loss": "1.400 ± 0.000", "val (%)": "50.00 ± 0.00",
        "test loss": "1.200 ± 0.000", "test (%)": "61.00 ± 1.41",
    }  # fmt: skip
    assert table.loc[1, "n"] == 1 and table.loc[1, "test (%)"] == "63.00"


def test_the_cost_of_an_arm_is_counted_and_measured(tmp_path):
    records = [
        record_of(tmp_path, spec_of(seed), seconds=10.0 * (seed + 1), peak_memory_mb=400.0 + seed) for seed in range(2)
    ]
    row = analysis.cost_table({"small CNN": records}).iloc[0]
    macs = 16 * 27 * 32**2 + 32 * 144 * 16**2 + 2048 * 128 + 128 * 10
    assert (row["parameters"], row["MACs per image"]) == ("268,650", f"{macs:,}")
    assert (row["training time (s)"], row["images/s"], row["peak memory (MB)"]) == ("15 ± 7", "2,000 ± 0", "401")


def test_the_grid_has_weights_as_rows_and_temperatures_as_columns(tmp_path):
    cells = {(weight, t): 10 * weight + t for weight in (0.5, 0.9) for t in (2.0, 4.0, 8.0)}
    records = [
        record_of(tmp_path, spec_of(temperature=t, kd_weight=weight), val=value)
        for (weight, t), value in reversed(cells.items())
    ]
    table = analysis.grid_table(records)
    assert (table.index.name, table.columns.name, table.shape) == ("kd_weight", "temperature", (2, 3))
    assert {(weight, t): table.loc[weight, t] for weight in table.index for t in table.columns} == cells


def test_the_best_cell_is_chosen_on_validation_alone(tmp_path):
    better_on_test = record_of(tmp_path, spec_of(temperature=2.0), val=50.0, test=99.0, best_val=(99.0, 0.1))
    better_on_validation = record_of(tmp_path, spec_of(temperature=4.0), val=51.0, test=1.0)
    assert analysis.best_cell([better_on_test, better_on_validation]) is better_on_validation


def test_a_tie_goes_to_the_lower_validation_loss(tmp_path):
    records = [
        record_of(tmp_path, spec_of(temperature=t), val=50.0, val_loss=loss)
        for t, loss in ((2.0, 1.5), (4.0, 1.3), (8.0, 1.4))
    ]
    assert analysis.best_cell(records) is records[1]
    assert analysis.best_cell(records[::-1]) is records[1]


def test_policies_count_the_parameters_that_train(tmp_path):
    class Untrained(Record):
        def load_model(self):
            return build_model(self.spec.model.name, 10, **self.spec.model.options)

    last_block, stem, head = 8_393_728, 64 * 3 * 9 + 2 * 64, 512 * 10 + 10  # of a ResNet18 with a 3x3 stem
    expected = {
        ("imagenet", "head"): head,
        ("cifar_pool", "last_block"): last_block + stem + head,
        ("cifar_pool", "all"): 11_173_962,
    }
    made = [
        record_of(tmp_path, spec_of(name="resnet18", stem=s, trainable=policy), seconds=31.4) for s, policy in expected
    ]
    table = analysis.policies_table([Untrained(record.path, record.spec, record.summary) for record in made])
    assert dict(zip(zip(table["stem"], table["trained"]), table["trained parameters"])) == {
        key: f"{count:,}" for key, count in expected.items()
    }
    assert table.loc[0, ["train (%)", "val (%)", "test (%)", "time (s)"]].tolist() == ["45.00", "50.00", "60.00", "31"]


def test_provenance_counts_the_runs_of_every_source(tmp_path):
    records = [
        record_of(tmp_path, spec_of(0)),
        record_of(tmp_path, spec_of(1)),
        record_of(tmp_path, spec_of(name="resnet18"), weights="ImageNet, 66.74% top-1 (SHA-256 89403e8f011306ea)"),
    ]
    table = analysis.provenance(records)
    facts = {(row.what, row.value): row.runs for row in table.itertuples()}
    assert facts["data", "synthetic data (digest feedfacecafebeef)"] == 3
    assert facts["initial weights", "random"] == 2
    assert facts["initial weights", "ImageNet, 66.74% top-1 (SHA-256 89403e8f011306ea)"] == 1
    assert (
        facts["hardware", "an abacus, 2 cores"]
        == facts["torch", "2.11.0"]
        == facts["code", "sources 0123456789ab"]
        == 3
    )


# Tables of data and networks


def test_the_small_cnn_has_the_published_memory():
    table = analysis.memory_table({"small CNN": build_model("small_cnn", 10)}).set_index("quantity")["small CNN"]
    assert table.to_dict() == {
        "Total params": "268,650", "Trainable params": "268,650", "Non-trainable params": "0",
        "Input size": "0.01 MB", "Forward/backward pass size": "0.24 MB", "Params size": "1.02 MB", "Total Size": "1.27 MB",
    }  # fmt: skip


def test_the_data_table_adds_up_and_agrees_with_the_split():
    random = np.random.RandomState(1)
    train, test = (torch.from_numpy(random.permutation(np.arange(count) % 10).astype(np.uint8)) for count in (500, 100))
    pixels = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    spec = DataSpec(name="cifar10", train_size=205, val_size=95, test_size=60)
    table = analysis.dataset_table(Dataset("cifar10", CLASSES, pixels, train, pixels, test, digest=""), spec)
    assert table["class"].tolist() == [*CLASSES, "all"]
    assert table.iloc[-1, 1:].tolist() == [205, 95, 60] == table.iloc[:-1, 1:].sum().tolist()
    training, validation = split_indices(train, spec)
    for label, row in enumerate(table.iloc[:-1].itertuples(index=False)):
        assert tuple(row[1:]) == tuple(
            int((labels == label).sum()) for labels in (train[training], train[validation], test[:60])
        )


# What the predictions tell


def test_confusion_counts_every_image(tmp_path):
    random = np.random.RandomState(3)
    labels = random.randint(0, 9, 200)  # the last class never occurs
    logits = random.normal(size=(200, 10)) + np.eye(10)[labels]
    found = analysis.confusion(record_of(tmp_path, logits=logits, labels=labels))
    predicted = logits.astype(np.float32).argmax(1)
    for true in range(10):
        of_this_class = [p for p, label in zip(predicted, labels) if label == true]
        assert found[true].tolist() == pytest.approx(
            [100 * of_this_class.count(other) / max(1, len(of_this_class)) for other in range(10)]
        )


def test_the_most_frequent_error_is_named(tmp_path):
    labels = np.repeat(np.arange(10), 10)
    predicted = labels.copy()
    predicted[30:34], predicted[50:53] = 5, 3  # four cats are taken for dogs, three dogs for cats
    predicted[[10, 20, 40, 60, 70, 80, 90]] = 0  # one of every other class is taken for an airplane
    record = record_of(tmp_path, logits=np.eye(10)[predicted], labels=labels)
    assert (
        analysis.confused_sentence([record], CLASSES)
        == "The most frequent error takes cat for dog (40.0 % of that class); airplane is recognised best (100.0 %)."
    )


def test_agreement_is_the_share_of_equal_decisions(tmp_path):
    labels = np.zeros(8, dtype=int)
    first, second = (
        record_of(tmp_path, logits=np.eye(10)[decisions], labels=labels)
        for decisions in ([0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 7, 6])
    )
    assert analysis.agreement(first, second) == analysis.agreement(second, first) == 75.0
    assert analysis.agreement(first, first) == 100.0
    table = analysis.agreement_table({"student": [second]}, {"teacher": [first]})
    assert table.loc[0, "agrees with teacher (%)"] == "75.00"


def confident(*confidences):
    """Logits [N, 2] whose softmax gives class 0 these probabilities."""
    return np.log(np.array([[c, 1 - c] for c in confidences]))


def test_calibration_error_of_a_hand_made_case(tmp_path):
    # bins of width 1/15: 0.9 twice, once right: |0.5 - 0.9|; 0.6 and 0.61 (another bin), both right: 0.4 and 0.39
    record = record_of(tmp_path, logits=confident(0.9, 0.9, 0.58, 0.61), labels=np.array([0, 1, 0, 0]))
    assert analysis.calibration_error(record) == pytest.approx(100 * (0.5 * 0.4 + 0.25 * 0.42 + 0.25 * 0.39), abs=1e-4)


def test_errors_within_a_bin_cancel_and_between_bins_do_not(tmp_path):
    same_bin = record_of(tmp_path, logits=confident(0.75, 0.75, 0.75, 0.75), labels=np.array([0, 0, 0, 1]))
    assert analysis.calibration_error(same_bin) == pytest.approx(0, abs=1e-4)
    two_bins = record_of(tmp_path, logits=confident(0.55, 0.95), labels=np.array([0, 1]))
    assert analysis.calibration_error(two_bins) == pytest.approx(100 * (0.45 + 0.95) / 2, abs=1e-4)


def test_certainty_belongs_to_the_last_bin(tmp_path):
    record = record_of(tmp_path, logits=np.array([[1000.0, 0.0], [0.0, 1000.0]]), labels=np.array([0, 1]))
    assert analysis.calibration_error(record) == 0.0


def test_a_binomial_standard_error(tmp_path):
    assert analysis.standard_error(record_of(tmp_path, val=50.0)) == pytest.approx(5.0)
    assert analysis.standard_error(record_of(tmp_path, val=80.0)) == pytest.approx(4.0)


def test_telling_images_are_right_but_hesitant_and_of_different_classes(tmp_path):
    labels = np.array([0, 0, 1, 1, 2])
    logits = np.array(
        [[3.0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 0.9, 0], [0, 0, 1.5]]
    )  # the fourth is wrong and most uncertain
    record = record_of(tmp_path, logits=logits, labels=labels)
    assert analysis.telling_images(record, 3).tolist() == [1, 4, 2]
    assert analysis.telling_images(record, 2).tolist() == [1, 4]


def test_the_ranking_is_by_mean_test_accuracy(tmp_path):
    arms = {
        "small CNN": runs(tmp_path, (60.0, 61.0)),
        "ResNet18": [record_of(tmp_path, spec_of(name="resnet18"), test=80.0, parameters=11_173_962)],
        "distilled": runs(tmp_path, (63.0, 62.0), temperature=4.0),
    }
    assert analysis.ranking_sentence(arms) == (
        "By mean test accuracy: ResNet18 (80.00 %), distilled (62.50 %), small CNN (60.50 %). "
        "The first of them has 41.6 times the parameters of the small CNN."
    )


def test_tables_are_data_frames(tmp_path):
    arms = {"small CNN": runs(tmp_path, (60.0,))}
    for table in (
        analysis.metrics_table(arms),
        analysis.cost_table(arms),
        analysis.compare(arms, "assignment"),
        analysis.agreement_table(arms, arms),
    ):
        assert isinstance(table, pd.DataFrame) and table.columns.is_unique and len(table)


# Binary networks


def test_binarising_the_document_s_network_saves_what_can_be_counted():
    """8,257,536 of WRN-16-7's 8,395,994 parameters are 3x3 weights of its blocks, 432 are its stem."""
    models = {precision: build_model("wrn_16_7", 10, precision=precision) for precision in ("full", "stem", "bonn")}
    floats = sum(tensor.numel() for tensor in models["full"].state_dict().values() if tensor.dim())
    table = analysis.precision_table(models).set_index("network")
    assert table.loc["full", "1-bit parameters (%)"] == "0" and table.loc["full", "stored (bytes)"] == f"{4 * floats:,}"
    assert float(table.loc["bonn", "1-bit parameters (%)"]) == pytest.approx(98.35, abs=0.06)
    assert float(table.loc["bonn", "times smaller"]) == pytest.approx(21, abs=0.5)
    assert float(table.loc["stem", "1-bit MACs (%)"]) == pytest.approx(0.04, abs=0.005)
    sentence = analysis.stem_sentence(models["stem"], models["bonn"])
    assert "touches 0.037 % of the multiplications and saves 0.005 % of the bytes" in sentence


def test_networks_stand_beside_the_published_sizes(tmp_path):
    spec = spec_of(name="resnet18")
    arms = {
        "ResNet18": [record_of(tmp_path, spec, test=76.5)],
        "unpublished": [record_of(tmp_path, spec_of(), test=60.0)],
    }
    table = analysis.networks_table(arms, "binary").set_index("network")
    assert table.loc["ResNet18", ["test (%)", "published (%)", "parameters", "published parameters"]].tolist() == [
        "76.50",
        "75.5",
        "11,173,962",
        "11.2 million",
    ]
    assert table.loc["unpublished", ["published (%)", "parameters", "stored (bytes)"]].tolist() == [
        "–",
        "268,650",
        f"{4 * 268_650:,}",
    ]


def test_the_clipped_share_counts_the_weights_without_a_gradient():
    for precision, scale in (("bonn", lambda layer: layer.modulation), ("xnor", lambda layer: 1.0)):
        model = build_model("wrn_16_1", 10, precision=precision)
        without, count = 0, 0
        for _, layer in binary_layers(model):
            torch.nn.init.normal_(layer.weight, std=0.7)
            signs, _ = layer.signs_and_scale()
            (gradient,) = torch.autograd.grad(signs.sum(), layer.weight)
            without, count = without + int((gradient == 0).sum()), count + gradient.numel()
        assert 0 < without < count and analysis.clipped_share(model) == pytest.approx(100 * without / count)
