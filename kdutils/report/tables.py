"""Tables and sentences: pure functions of records that return DataFrames or strings.

Accuracies are in percent, losses in nats. A spread is the sample standard deviation (ddof 1) with the number of runs
beside it; `conditions(arms)` says for a caption what a spread is conditional on. Tables of arms and gains carry their
unrounded numbers for `results.json` in `attrs["results"]` (`kdutils.report.results`).
"""

from collections import Counter
from typing import Literal

import numpy as np
import pandas as pd
from torch import nn

from kdutils.data.datasets import Dataset
from kdutils.data.synthetic import FAMILIES
from kdutils.data.views import split_indices
from kdutils.errors import InputError
from kdutils.networks.counting import layer_summary
from kdutils.report.results import describe_arms, describe_gains, describe_grid
from kdutils.report.statistics import (
    FEW,
    Arms,
    Gain,
    agreement,
    best_cell,
    calibration_error,
    conditions,
    confusion,
    count,
    finished,
    reliability,
    spread,
    standard_error,
    values,
    with_diverged,
)
from kdutils.runs.records import Record
from kdutils.settings import ROOT
from kdutils.specs import DataSpec


def published(study: str) -> pd.DataFrame:
    """The published values of a study: arm, split, metric, value, remark."""
    table = pd.read_csv(ROOT / "reports" / "published.csv", keep_default_na=False, dtype={"value": float})
    known = sorted(table["study"].unique())
    if study not in known:
        raise InputError(f"nothing is published for {study!r}: allowed are {', '.join(known)}")
    return table[table["study"] == study].drop(columns="study").reset_index(drop=True)


def compare(arms: Arms, study: str, absent: Literal["skip", "show"] = "skip") -> pd.DataFrame:
    """Our values beside the published ones: a row for every published value of an arm, and our difference from it.

    Published values of an arm that is not among `arms` are left out, or shown as "not yet run". No difference is given
    between published values, which are for CIFAR, and those on synthetic images. On one's own data the table has no
    rows, and `attrs["instead"]` says so.
    """
    rows, described = [], describe_arms(arms)
    if any(record.spec.data.digest for records in arms.values() for record in records):
        table = carrying(pd.DataFrame(), arms=described)
        table.attrs["instead"] = "The published values are left out here: they are for CIFAR-10."
        return table
    for row in published(study).query("metric in ('accuracy', 'loss')").itertuples():
        metric, digits = ("accuracy (%)", 2) if row.metric == "accuracy" else ("loss (nats)", 3)
        ours, n, difference = "not yet run", 0, "–"
        if row.split in described.get(row.arm, {}).get("metrics", {}):
            numbers = values(arms[row.arm], row.split, row.metric)
            ours, n = spread(numbers, digits), count(arms[row.arm])
            if numbers and not _synthetic(arms):
                difference = f"{np.mean(numbers) - row.value:+.{digits}f}"
            described[row.arm]["metrics"][row.split][row.metric]["published"] = {study: row.value}
        elif absent == "skip":
            continue
        written = max(f"{row.value:.{digits}f}", f"{row.value:g}", key=len)  # all published digits
        rows.append((row.arm, row.split, metric, ours, n, written, difference, row.remark))
    columns = ["classifier", "split", "metric", "ours", "n", "published", "difference", "remark"]
    return carrying(pd.DataFrame(rows, columns=columns), arms=described)


def _synthetic(arms: Arms) -> bool:
    return any(record.spec.data.name in FAMILIES for records in arms.values() for record in records)


def carrying(table: pd.DataFrame, **results: dict) -> pd.DataFrame:
    """The table with what `results.json` gets from it: arms, gains or a grid in plain values (`Page.table`)."""
    table.attrs["results"] = results
    return table


def published_sentences(arms: Arms, study: str) -> str:
    """A sentence for each published accuracy of an arm: ours, the document's, the difference; and one on what ± is.

    On synthetic images, one sentence that says why there are no others; on one's own data, "".
    """
    sentences, table = [], compare(arms, study)
    if table.empty:
        return ""
    if _synthetic(arms):
        return "The published values are for CIFAR: no difference from them says anything about synthetic images."
    for row in table[table["metric"].eq("accuracy (%)") & table["split"].ne("train")].itertuples():
        difference = f"{row.difference[1:]} points {'less' if row.difference.startswith('-') else 'more'}"
        ours, end = f"{row.ours} % here (n={row.n})", f", {difference}."
        if row.ours == "diverged":
            ours, end = "every run diverged here", "."
        sentences.append(f"- {row.classifier}, {row.split}: {ours}, {row.published} % in the document{end}")
    return "\n".join([*sentences, f"- ± is the sample SD {conditions(arms)}."] if "±" in str(sentences) else sentences)


def published_gain(study: str, treated: str, control: str) -> str:
    """The difference of two published test accuracies as a sentence, and what the document itself claims it to be."""
    known = {(row.arm, row.metric): row.value for row in published(study).query("split == 'test'").itertuples()}
    ours, theirs, claimed = known[treated, "accuracy"], known[control, "accuracy"], known.get((treated, "claimed gain"))
    claim = "" if claimed is None else f"; its text claims more than {claimed:g} %"
    both = f"the {treated} has {ours:.2f} % and the {control} {theirs:.2f} %"
    return f"In the document, {both}, a difference of {ours - theirs:.2f} points{claim}."


def metrics_table(arms: Arms) -> pd.DataFrame:
    """Loss (nats) and accuracy (%) on every available split after the last epoch: a row for each arm, with its n."""
    rows = []
    for name, records in arms.items():
        row = {"classifier": name, "n": count(records)}
        for split in ("train", "val", "test"):
            there = all(split in record.summary["metrics"] for record in records)
            row[f"{split} loss"] = spread(values(records, split, "loss"), 3) if there else "–"
            row[f"{split} (%)"] = spread(values(records, split)) if there else "–"
        rows.append(row)
    table = pd.DataFrame(rows)
    return carrying(table.loc[:, table.ne("–").any()], arms=describe_arms(arms))


def gains_table(gains: list[Gain]) -> pd.DataFrame:
    """Paired gains, a row each: mean, SD, 95% confidence interval (percentage points), number of pairs."""
    rows = []
    for gain in gains:
        interval = (f"{gain.sd:.2f}", f"[{gain.low:+.2f}, {gain.high:+.2f}]") if gain.n > 1 else ("–", "–")
        mean, pairs = f"{gain.mean:+.2f}" if gain.n else "diverged", with_diverged(gain.n, gain.diverged)
        rows.append((gain.treated, gain.control, mean, *interval, pairs))
    columns = ["classifier", "against", "gain (points)", "SD", "95% CI", "pairs"]
    return carrying(pd.DataFrame(rows, columns=columns), gains=describe_gains(gains))


def grid_table(records: list[Record]) -> pd.DataFrame:
    """Validation accuracy (%) by kd_weight (rows) and temperature (columns), or "diverged".

    The student alone is shown as kd_weight 0 at every temperature.
    """
    grid = describe_grid(records)
    taught = {cell["temperature"] for cell in grid["cells"]} - {None}
    rows = []
    for cell in grid["cells"]:
        shown = "diverged" if cell["accuracy"] is None else cell["accuracy"]
        for temperature in taught if cell["temperature"] is None else (cell["temperature"],):
            rows.append((cell["kd_weight"], temperature, shown))
    table = pd.DataFrame(rows, columns=["kd_weight", "temperature", "accuracy"])
    return carrying(table.pivot(index="kd_weight", columns="temperature", values="accuracy"), grid=grid)


def grid_sentence(records: list[Record]) -> str:
    """How sure the choice of a grid's best cell is: its standard error, the cells within it, whether it is at an edge.

    records: the runs of `Study.grid`, of which one or more did not diverge.
    """
    error, best, images = standard_error(finished(records)), best_cell(records), records[0].spec.data.val_size
    cells = [record for record in finished(records) if record.spec.distillation]
    top = max(record.metric("val") for record in cells)
    near = sum(record.metric("val") >= top - error for record in cells) - 1
    said = f"A validation accuracy on {images:,} images has a standard error of about {error:.1f} points"
    if len(cells) < 2:
        return f"{said}."
    verb, others = "is" if near == 1 else "are", len(cells) - 1
    said += f": {near} of the {others} other cell{'s' * (others > 1)} with a teacher {verb} within it of the best."
    methods, edges = [record.spec.distillation.method for record in records if record.spec.distillation], []
    for name, value in (("temperature", best.temperature), ("kd_weight", best.kd_weight)):
        alone = {0.0} if name == "kd_weight" and len(methods) < len(records) else set()
        tried = sorted(alone | {getattr(method, name) for method in methods})
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            edges.append(f"the {'lowest' if value == tried[0] else 'highest'} {name} that was tried")
    return f"{said} The chosen one has {' and '.join(edges)}, so a better one may lie beyond." if edges else said


def progress_sentence(name: str, records: list[Record]) -> str:
    """How far runs with a `test_curve` had come: accuracy on training and test images, and what the last epochs added.

    name: the network, such as "reduced CNN alone". Training accuracy is measured in training: augmented, with dropout.
    """
    runs = finished(records)
    if not runs:
        return f"Every run of the {name} diverged."
    train, test = (float(np.mean(values(runs, split))) for split in ("train", "test"))
    epochs = runs[0].spec.epochs
    early = max(1, round(0.75 * epochs))
    rise = np.mean([record.history["test_accuracy"].iloc[[early - 1, -1]].diff().iloc[-1] for record in runs])
    said = (
        f"After {epochs} epoch{'s' * (epochs > 1)} the {name} is right on {train:.1f} % of the training images, "
        f"as it met them, and on {test:.1f} % of the test images"
    )
    said += f", {rise:+.1f} points since epoch {early}." if early < epochs else "."
    return said


def confused_sentence(records: list[Record], classes: tuple[str, ...]) -> str:
    """Names the pair of classes that is confused most, and the class that is recognised best."""
    if not finished(records):
        return "Every run diverged: there are no predictions to compare."
    share = confusion(records)
    best = int(np.diag(share).argmax())
    errors = share - np.diag(np.diag(share))
    if not errors.any():
        return "Every test image is classified correctly: there is no error to name."
    true, predicted = np.unravel_index(errors.argmax(), errors.shape)
    return (
        f"The most frequent error: {errors[true, predicted]:.1f} % of the images of {classes[true]} are taken for "
        f"{classes[predicted]}. Best recognised: {classes[best]} ({share[best, best]:.1f} %)."
    )


def confidence_sentence(arms: Arms) -> str:
    """How far the arms are overconfident on the test images: mean confidence minus accuracy, in points."""
    found = []
    for name, records in arms.items():
        confidence, accuracy, share = reliability(records)
        surplus = f"{100 * (share * (confidence - accuracy)).sum():+.1f}" if len(share) else "diverged"
        found.append(f"{name} {surplus}")
    surer = "above zero, a network is more confident than accurate"
    return f"Mean confidence less accuracy on the test images, in points ({surer}): {', '.join(found)}."


def ranking_sentence(arms: Arms) -> str:
    """All arms by mean test accuracy, and how many times larger the best network is than the smallest."""
    means = {name: np.mean(values(records, "test") or -np.inf) for name, records in arms.items()}
    order = sorted(arms, key=means.get, reverse=True)
    sizes = {name: records[0].summary["parameters"] for name, records in arms.items()}
    smallest = min(sizes, key=sizes.get)
    numbers = {name: f"{mean:.2f} %" if np.isfinite(mean) else "no number" for name, mean in means.items()}
    shown = [f"{name} ({numbers[name]}, n={count(arms[name])})" for name in order]
    times = f"{sizes[order[0]] / sizes[smallest]:.1f} times the parameters of the {smallest}"
    return f"By mean test accuracy: {', '.join(shown)}. The first of them has {times}."


def lambda_sentences(arms: Arms, chosen: float) -> str:
    """What `Binary.lambdas` shows on validation images, by optimiser: the best lambda, the chosen one, and XNOR."""
    sentences, runs = [], [record for records in arms.values() for record in finished(records)]
    for name in (name for name in arms if name.startswith("BONN")):
        found = {record.spec.bayesian.kernel_weight: record.metric("val") for record in finished(arms[name])}
        xnor, optimiser = arms[name.replace("BONN", "XNOR")][0].metric("val"), name.partition(", ")[2]
        best, largest = max(found, key=found.get, default=chosen), max(found, default=chosen)
        if chosen in found:
            sentences.append(
                f"- {optimiser}: of the {len(arms[name])} values of lambda that were tried, {best:g} does best "
                f"({found[best]:.1f} %). {chosen:g} is used below: {found[chosen]:.1f} %"
                + (f", {found[chosen] - xnor:+.1f} points beside XNOR" if np.isfinite(xnor) else "; XNOR diverged")
                + (f"; {largest:g} has {found[largest]:.1f} %." if largest != chosen else ".")
            )
    if not sentences:
        return "Every run at the chosen lambda diverged."
    spec = runs[0].spec
    images = "all other images" if spec.data.train_size is None else f"{spec.data.train_size:,} images"
    shown = f"Each is one run of {spec.epochs} epoch{'s' * (spec.epochs > 1)} on {images}"
    error = f"{shown}; its accuracy has a standard error of {standard_error(runs):.1f} points."
    return "\n".join([*sentences, f"- {error}"])


def agreement_table(arms: Arms, teachers: Arms) -> pd.DataFrame:
    """How often (% of the test images) an arm predicts a teacher's class, and its expected calibration error (%)."""
    rows = []
    for name, records in arms.items():
        row = {"classifier": name, "n": count(records)}
        for teacher, (first, *_) in teachers.items():
            row[f"agrees with {teacher} (%)"] = spread(agreement(record, first) for record in finished(records))
        rows.append(row | {"calibration error (%)": spread(map(calibration_error, finished(records)))})
    return pd.DataFrame(rows)


def memory_table(models: dict[str, nn.Module]) -> pd.DataFrame:
    """torchsummary's totals, a column for each network: numbers of parameters, and sizes in MB for one image."""
    totals = pd.DataFrame({name: layer_summary(model)[1] for name, model in models.items()})
    shown = totals.apply(lambda row: row.map(("{:,.0f}" if "params" in row.name else "{:.2f} MB").format), axis=1)
    return shown.rename_axis("quantity").reset_index()


def dataset_table(dataset: Dataset, spec: DataSpec) -> pd.DataFrame:
    """Numbers of training, validation and test images in a study's split: of every class, or of 20 and the rest."""
    train, val = split_indices(dataset.train_labels, *spec.split)
    shown = {"training": dataset.train_labels[train], "validation": dataset.train_labels[val]}
    shown |= {"test": dataset.test_labels[: spec.test_size]}
    counts = {title: np.bincount(labels, minlength=len(dataset.classes)) for title, labels in shown.items()}
    table = pd.DataFrame({"class": dataset.classes} | counts)
    total, rest = table.iloc[:, 1:].sum(), table.iloc[FEW:, 1:]
    if len(rest):
        table = table.iloc[:FEW]
        table.loc[len(table)] = [f"{len(rest):,} others", *rest.sum()]
    table.loc[len(table)] = ["all", *total]
    return table


def provenance(records: list[Record]) -> pd.DataFrame:
    """Where the numbers come from: data, weights, machines, versions and code, each with its number of runs."""
    facts = Counter()
    for summary in (record.summary for record in records):
        data = f"{summary['data']['title']} (digest {summary['data']['digest']})"
        facts.update([("data", data), ("initial weights", summary["weights"] or "random")])
        facts.update(summary["environment"].items())
    rows = [(*fact, runs) for fact, runs in sorted(facts.items(), key=lambda item: item[0][0])]
    return pd.DataFrame(rows, columns=["what", "value", "runs"])
