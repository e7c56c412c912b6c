"""Tables and sentences against hand-made cases and the published numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fake_records import CLASSES, lambda_arms, record_of, runs, spec_of

from kdutils.data.datasets import Dataset
from kdutils.data.views import split_indices
from kdutils.errors import InputError
from kdutils.networks.registry import build_model
from kdutils.report import statistics, tables
from kdutils.specs import DataSpec

TASK3, TASK4 = "assignment/task-3", "assignment/task-4"
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


def test_the_table_of_gains_has_a_row_for_each(tmp_path):
    alone = runs(tmp_path, (60.0, 70.0, 80.0))
    found = [
        statistics.gain(runs(tmp_path, values), alone, (name, "alone"))
        for name, values in {"one": (61, 72, 83), "two": (59, 70, 81)}.items()
    ]
    table = tables.gains_table(found)
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
    table = tables.gains_table([statistics.gain(runs(tmp_path, (70.0,)), runs(tmp_path, (60.0,)), ("taught", "alone"))])
    assert table["gain (points)"][0] == "+10.00" and table["pairs"][0] == 1
    assert "nan" not in table.astype(str).to_csv()


@pytest.mark.parametrize("study, classifier, split", PUBLISHED, ids=str)
def test_every_published_number_stands_in_the_csv(study, classifier, split):
    table = tables.published(study)
    rows = table[(table["arm"] == classifier) & (table["split"] == split)]
    accuracy, loss = PUBLISHED[study, classifier, split]
    expected = {"accuracy": accuracy} | ({"loss": loss} if loss else {})
    assert dict(zip(rows["metric"], rows["value"], strict=True)) == expected


def test_nothing_else_is_called_published():
    assert sum(len(tables.published(study)) for study in ("assignment", TASK3, TASK4)) == sum(
        2 - (loss is None) for _, loss in PUBLISHED.values()
    )


PHASES = {"WideResNet, stem binary": 70.2, "WideResNet, BONN": 70.2, "ResNet18": 75.5, "reduced CNN, distilled": 80.1}
KINDS = ("full precision", "XNOR", "BONN")
WIDTHS = {"16-16-32-64": (91.66, 81.90, 87.34), "64-64-128-256": (94.96, 88.52, 92.36)}
WRN22 = {
    f"WRN-22 ({width}), {kind}": value
    for width, column in WIDTHS.items()
    for kind, value in zip(KINDS, column, strict=True)
}


@pytest.mark.parametrize("study, expected", [("binary", PHASES), ("binary/wrn-22", WRN22)])
def test_the_accuracies_of_study_b_stand_in_the_csv(study, expected):
    rows = tables.published(study).query("metric == 'accuracy'")
    assert dict(zip(rows["arm"], rows["value"], strict=True)) == expected and set(rows["split"]) == {"test"}


def test_what_was_not_run_is_said_where_that_is_asked_for(tmp_path):
    arms = {"ResNet18": runs(tmp_path, (76.5,))}
    assert list(tables.compare(arms, "binary")["classifier"]) == ["ResNet18"]
    table = tables.compare(arms, "binary", absent="show").set_index("classifier")
    assert len(table) == 4 and (table.loc["ResNet18", "ours"], table.loc["ResNet18", "difference"]) == (
        "76.50",
        "+1.00",
    )
    missing = table.loc["reduced CNN, distilled"]
    assert (missing["ours"], missing["n"], missing["published"], missing["difference"]) == (
        "not yet run",
        0,
        "80.10",
        "–",
    )


def test_an_unknown_study_is_an_error_that_names_the_known_ones():
    with pytest.raises(InputError, match=f"'homework'.*assignment, {TASK3}, {TASK4}"):
        tables.published("homework")


def test_a_value_of_images_that_were_not_evaluated_is_not_compared(tmp_path):
    arms = {"small CNN": [record_of(tmp_path, spec_of(val_size=0))]}
    assert set(tables.compare(arms, "assignment")["split"]) == {"train", "test"}
    table = tables.compare(arms, "assignment", absent="show").query("classifier == 'small CNN'").set_index("split")
    assert set(table.loc["val", "ours"]) == {"not yet run"}


def test_a_comparison_has_a_row_for_every_published_value_of_an_arm(tmp_path):
    arms = {"small CNN": runs(tmp_path, (64.43, 66.43)), "not published": runs(tmp_path, (1.0,))}
    table = tables.compare(arms, "assignment").set_index(["split", "metric"])
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


def test_synthetic_images_have_no_difference_from_what_is_published_of_cifar(tmp_path):
    for dataset, difference in (("synthetic", "–"), ("synthetic-other", "–"), ("cifar10", "+3.00")):
        arms = {"small CNN": runs(tmp_path / dataset, (64.43, 66.43), dataset=dataset)}
        table = tables.compare(arms, "assignment").set_index(["split", "metric"])
        test = table.loc[("test", "accuracy (%)")]
        assert (test["ours"], test["published"], test["difference"]) == ("65.43 ± 1.41", "62.43", difference)
        said = tables.published_sentences(arms, "assignment")
        assert ("says anything about synthetic images" in said) == (difference == "–") != ("3.00 points more" in said)


def test_task_3_is_compared_by_the_best_epoch_on_validation(tmp_path):
    student = record_of(tmp_path, spec_of(temperature=4.0), val=50.0, best_val=(64.34, 1.17))
    table = tables.compare({"distilled from ResNet50": [student]}, TASK3).set_index("metric")
    assert table["ours"].to_dict() == {"accuracy (%)": "64.34", "loss (nats)": "1.170"}
    assert table["difference"].to_dict() == {"accuracy (%)": "-2.00", "loss (nats)": "-0.100"}


def test_sentences_beside_the_published_values_say_more_or_less(tmp_path):
    arms = {"small CNN": [record_of(tmp_path, val=65.40, test=60.43)]}
    assert tables.published_sentences(arms, "assignment").splitlines() == [
        "- small CNN, val: 65.40 % here (n=1), 63.40 % in the document, 2.00 points more.",
        "- small CNN, test: 60.43 % here (n=1), 62.43 % in the document, 2.00 points less.",
    ]


def test_the_table_of_metrics_leaves_out_a_split_that_was_not_there(tmp_path):
    table = tables.metrics_table({"alone": runs(tmp_path, (60.0,), val_size=0)})
    assert "test (%)" in table and not [column for column in table if column.startswith("val")]


def test_the_table_of_metrics_gives_every_split_with_its_number_of_runs(tmp_path):
    table = tables.metrics_table(
        {"alone": runs(tmp_path, (60.0, 62.0)), "taught": runs(tmp_path, (63.0,), temperature=2.0)}
    )
    assert table.iloc[0].to_dict() == {
        "classifier": "alone",
        "n": 2,
        "train loss": "1.500 ± 0.000",
        "train (%)": "45.00 ± 0.00",
        "val loss": "1.400 ± 0.000",
        "val (%)": "50.00 ± 0.00",
        "test loss": "1.200 ± 0.000",
        "test (%)": "61.00 ± 1.41",
    }
    assert table.loc[1, "n"] == 1 and table.loc[1, "test (%)"] == "63.00"


def test_the_grid_has_weights_as_rows_and_temperatures_as_columns(tmp_path):
    cells = {(weight, t): 10 * weight + t for weight in (0.5, 0.9) for t in (2.0, 4.0, 8.0)}
    records = [
        record_of(tmp_path, spec_of(temperature=t, kd_weight=weight), val=value)
        for (weight, t), value in reversed(cells.items())
    ]
    table = tables.grid_table(records)
    assert (table.index.name, table.columns.name, table.shape) == ("kd_weight", "temperature", (2, 3))
    assert {(weight, t): table.loc[weight, t] for weight in table.index for t in table.columns} == cells


def test_provenance_counts_the_runs_of_every_source(tmp_path):
    records = [
        record_of(tmp_path, spec_of(0)),
        record_of(tmp_path, spec_of(1)),
        record_of(tmp_path, spec_of(name="resnet18"), weights="ImageNet, 66.74% top-1 (SHA-256 89403e8f011306ea)"),
    ]
    table = tables.provenance(records)
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


def test_the_small_cnn_has_the_published_memory():
    table = tables.memory_table({"small CNN": build_model("small_cnn", 10)}).set_index("quantity")["small CNN"]
    counts = {"Total params": "268,650", "Trainable params": "268,650", "Non-trainable params": "0"}
    sizes = {"Input size": "0.01 MB", "Forward/backward pass size": "0.24 MB", "Params size": "1.02 MB"}
    assert table.to_dict() == counts | sizes | {"Total Size": "1.27 MB"}


def test_the_data_table_adds_up_and_agrees_with_the_split():
    random = np.random.RandomState(1)
    train, test = (torch.from_numpy(random.permutation(np.arange(count) % 10).astype(np.uint8)) for count in (500, 100))
    pixels = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    spec = DataSpec(name="cifar10", train_size=205, val_size=95, test_size=60)
    table = tables.dataset_table(Dataset("cifar10", CLASSES, pixels, train, pixels, test, digest=""), spec)
    assert table["class"].tolist() == [*CLASSES, "all"]
    assert table.iloc[-1, 1:].tolist() == [205, 95, 60] == table.iloc[:-1, 1:].sum().tolist()
    training, validation = split_indices(train, *spec.split)
    for label, row in enumerate(table.iloc[:-1].itertuples(index=False)):
        assert tuple(row[1:]) == tuple(
            int((labels == label).sum()) for labels in (train[training], train[validation], test[:60])
        )


def test_of_many_classes_the_data_table_sums_those_that_it_does_not_list():
    labels, pixels = torch.arange(300) % 30, torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    dataset = Dataset("flowers", tuple(f"class {k}" for k in range(30)), pixels, labels, pixels, labels, digest="f1")
    table = tables.dataset_table(dataset, DataSpec(name="flowers", classes=30, digest="f1", val_size=60))
    assert table["class"].tolist() == [*dataset.classes[:20], "10 others", "all"]
    assert table.iloc[-2:, 1:].to_numpy().tolist() == [[80, 20, 100], [240, 60, 300]]


def test_nothing_is_published_beside_ones_own_data(tmp_path):
    data = DataSpec(name="flowers", classes=3, digest="f1", val_size=100)
    arms = {"small CNN": [record_of(tmp_path, spec_of().with_(data=data))]}
    table = tables.compare(arms, "assignment")
    assert table.empty and table.attrs["instead"] == "The published values are left out here: they are for CIFAR-10."
    assert "published" not in str(table.attrs["results"]).replace("'published': {}", "")
    assert tables.published_sentences(arms, "assignment") == ""


def test_confidence_is_set_beside_accuracy(tmp_path):
    labels = np.arange(10)
    sure = record_of(
        tmp_path, logits=50 * np.eye(10)[labels], labels=np.roll(labels, 5) * (labels < 5) + labels * (labels > 4)
    )
    unsure = record_of(tmp_path, spec_of(seed=1), logits=0.01 * np.eye(10)[labels], labels=labels)
    lost = record_of(tmp_path, spec_of(seed=2), diverged=True)
    logits = np.where(labels < 8, 50, 0.01)[:, None] * np.eye(10)[labels]
    mixed = record_of(tmp_path, spec_of(seed=3), logits=logits, labels=np.where(labels < 8, labels, 0))  # two wrong
    said = tables.confidence_sentence({"sure": [sure], "unsure": [unsure], "mixed": [mixed], "lost": [lost]})
    assert said.endswith(": sure +50.0, unsure -89.9, mixed +2.0, lost diverged.")


def test_the_most_frequent_error_is_named(tmp_path):
    labels = np.repeat(np.arange(10), 10)
    predicted = labels.copy()
    predicted[30:34], predicted[50:53] = 5, 3  # four cats are taken for dogs, three dogs for cats
    predicted[[10, 20, 40, 60, 70, 80, 90]] = 0  # one of every other class is taken for an airplane
    record = record_of(tmp_path, logits=np.eye(10)[predicted], labels=labels)
    assert tables.confused_sentence([record], CLASSES) == (
        "The most frequent error: 40.0 % of the images of cat are taken for dog. Best recognised: airplane (100.0 %)."
    )
    faultless = record_of(tmp_path, spec_of(seed=1), logits=np.eye(10)[labels], labels=labels)
    assert tables.confused_sentence([faultless], CLASSES).startswith("Every test image is classified correctly")


def test_the_ranking_is_by_mean_test_accuracy(tmp_path):
    arms = {
        "small CNN": runs(tmp_path, (60.0, 61.0)),
        "ResNet18": [record_of(tmp_path, spec_of(name="resnet18"), test=80.0, parameters=11_173_962)],
        "distilled": runs(tmp_path, (63.0, 62.0), temperature=4.0),
    }
    assert tables.ranking_sentence(arms) == (
        "By mean test accuracy: ResNet18 (80.00 %, n=1), distilled (62.50 %, n=2), small CNN (60.50 %, n=2). "
        "The first of them has 41.6 times the parameters of the small CNN."
    )


# Runs that diverged, and numbers that are not there


def text(table):
    return table.astype(str).to_csv()


@pytest.fixture
def arms(tmp_path):
    """One of three runs diverged (at an accuracy that would move the mean), and all of two."""
    half = runs(tmp_path, (58.0, 10.0, 58.6), diverged=(1,))
    return {
        "small CNN": half,
        "distilled from ResNet50": runs(tmp_path, (10.0, 11.0), diverged=(0, 1), temperature=4.0),
    }


def test_metrics_count_a_diverged_run_and_leave_it_out_of_the_mean(arms):
    table = tables.metrics_table(arms).set_index("classifier")
    assert table.loc["small CNN", ["n", "test (%)", "test loss"]].tolist() == [
        "2, 1 diverged",
        "58.30 ± 0.42",
        "1.200 ± 0.000",
    ]
    lost = table.loc["distilled from ResNet50"]
    assert lost["n"] == "0, 2 diverged" and set(lost.drop("n")) == {"diverged"} and "nan" not in text(table)


def test_a_comparison_counts_a_diverged_run(arms):
    table = tables.compare(arms, TASK3).set_index(["classifier", "metric"])
    student = table.loc[("small CNN", "accuracy (%)")]
    assert (student["ours"], student["n"], student["difference"]) == ("55.00 ± 0.00", "2, 1 diverged", "-7.25")
    lost = table.loc[("distilled from ResNet50", "accuracy (%)")]
    assert (lost["ours"], lost["n"], lost["difference"]) == ("diverged", "0, 2 diverged", "–")


def test_sentences_say_what_diverged_and_what_a_spread_is_over(arms):
    assert tables.published_sentences(arms, TASK3).splitlines() == [
        "- small CNN, best val: 55.00 ± 0.00 % here (n=2, 1 diverged), 62.25 % in the document, 7.25 points less.",
        "- distilled from ResNet50, best val: every run diverged here, 66.34 % in the document.",
        "- ± is the sample SD over seeds that share their views (and one teacher).",
    ]


def test_the_ranking_says_what_diverged(arms):
    ranking = "small CNN (58.30 %, n=2, 1 diverged), distilled from ResNet50 (no number, n=0, 2 diverged)."
    assert ranking in tables.ranking_sentence(arms)


def test_gains_leave_out_a_pair_and_say_so(tmp_path, arms):
    alone = runs(tmp_path, (57.0, 57.0, 57.0))
    lost = statistics.gain(arms["distilled from ResNet50"], runs(tmp_path, (60, 61)), ("lost", "alone"))
    table = tables.gains_table([statistics.gain(arms["small CNN"], alone, ("half", "alone")), lost])
    assert table["gain (points)"].tolist() == ["+1.30", "diverged"] and table["SD"].tolist() == ["0.42", "–"]
    assert table["pairs"].tolist() == ["2, 1 diverged", "0, 2 diverged"] and "nan" not in text(table)


def test_a_grid_says_diverged_in_its_cell(tmp_path):
    lost = record_of(tmp_path, spec_of(temperature=2.0), val=99.0, diverged=True)
    alone, taught = record_of(tmp_path, val=40.0), record_of(tmp_path, spec_of(temperature=4.0), val=50.0)
    table = tables.grid_table([lost, taught, alone])
    assert table.loc[0.5].to_dict() == {2.0: "diverged", 4.0: 50.0} and table.loc[0.0].to_dict() == {
        2.0: 40.0,
        4.0: 40.0,
    }


def test_agreement_and_confusion_leave_a_diverged_run_out(tmp_path, arms):
    teacher = [record_of(tmp_path, spec_of(name="resnet18"))]
    table = tables.agreement_table(arms, {"it": teacher, "lost": arms["distilled from ResNet50"]})
    assert table["n"].tolist() == ["2, 1 diverged", "0, 2 diverged"] and "nan" not in text(table)
    kept = statistics.finished(arms["small CNN"])
    assert table.loc[0, "agrees with it (%)"] == statistics.spread(statistics.agreement(run, *teacher) for run in kept)
    assert (
        table.loc[0, "agrees with lost (%)"].startswith("diverged")
        and table.loc[1, "calibration error (%)"] == "diverged"
    )
    assert tables.confused_sentence(arms["small CNN"], CLASSES) == tables.confused_sentence(kept, CLASSES)
    assert "Every run diverged" in tables.confused_sentence(arms["distilled from ResNet50"], CLASSES)


def test_an_arm_without_validation_beside_one_with_it(tmp_path):
    arms = {"without": runs(tmp_path, (60.0,), val_size=0), "with": runs(tmp_path, (61.0,))}
    table = tables.metrics_table(arms)
    assert list(table) == [
        "classifier",
        "n",
        *(f"{split} {what}" for split in ("train", "val", "test") for what in ("loss", "(%)")),
    ]
    assert table["val (%)"].tolist() == ["–", "50.00"] and "nan" not in text(table)


def test_tables_are_data_frames(tmp_path):
    arms = {"small CNN": runs(tmp_path, (60.0,))}
    frames = (tables.metrics_table(arms), tables.compare(arms, "assignment"), tables.agreement_table(arms, arms))
    for table in frames:
        assert isinstance(table, pd.DataFrame) and table.columns.is_unique and len(table)


def test_lambdas_are_told_by_optimiser_beside_xnor(tmp_path):
    found = {"Adam": {None: 41.0, 0.0: 43.0, 1e-6: 43.5, 1e-4: 37.0}, "SGD": {None: 38.5, 0.0: 40.0, 1e-6: 36.0}}
    told = tables.lambda_sentences(lambda_arms(tmp_path, found), 1e-6).splitlines()
    assert told == [
        "- Adam: of the 3 values of lambda that were tried, 1e-06 does best (43.5 %). 1e-06 is used below: 43.5 %, "
        "+2.5 points beside XNOR; 0.0001 has 37.0 %.",
        "- SGD: of the 2 values of lambda that were tried, 0 does best (40.0 %). 1e-06 is used below: 36.0 %, -2.5 "
        "points beside XNOR.",
        "- Each is one run of 3 epochs on 200 images; its accuracy has a standard error of 4.9 points.",
    ]


def test_how_sure_the_choice_of_a_grid_is(tmp_path):
    def cells(found):
        return [record_of(tmp_path, spec_of(temperature=t, kd_weight=w), val=val) for (t, w), val in found.items()]

    grid = {(2.0, 0.5): 50.0, (4.0, 0.5): 52.0, (8.0, 0.5): 44.0, (2.0, 0.9): 40.0, (4.0, 0.9): 46.0, (8.0, 0.9): 41.0}
    said = tables.grid_sentence([record_of(tmp_path, spec_of(), val=51.0), *cells(grid)])  # and the student alone
    assert said == (
        "A validation accuracy on 100 images has a standard error of about 5.0 points: 1 of the 5 other cells with a "
        "teacher is within it of the best."
    )
    inside = cells({(2.0, 0.5): 50.0, (4.0, 0.5): 52.0, (8.0, 0.5): 44.0})
    assert tables.grid_sentence(inside[:1]).endswith("has a standard error of about 5.0 points."), "nothing was chosen"
    assert tables.grid_sentence(inside).endswith("1 of the 2 other cells with a teacher is within it of the best.")
    lost = record_of(tmp_path, spec_of(temperature=16.0, kd_weight=0.5), val=1.0, diverged=True)
    above = tables.grid_sentence([*inside[:2], lost])  # the higher one was tried, too
    assert above.endswith("1 of the 1 other cell with a teacher is within it of the best."), above


def test_how_far_a_training_had_come(tmp_path):
    records = runs(tmp_path, (40.0, 46.0))
    for record, last in zip(records, (40.0, 46.0), strict=True):  # of three epochs, the last quarter begins after two
        record.history.assign(test_accuracy=[20.0, 38.0, last]).to_csv(record.path / "history.csv", index=False)
    records = [statistics.Record(record.path, record.spec, record.summary) for record in records]  # read anew
    assert tables.progress_sentence("small CNN", records) == (
        "After 3 epochs the small CNN is right on 45.0 % of the training images, as it met them, and on 43.0 % "
        "of the test images, +5.0 points since epoch 2."
    )
    assert "diverged" in tables.progress_sentence("x", runs(tmp_path, (1.0,), diverged=(0,)))
