"""Tables and sentences: pure functions of records that return DataFrames or strings.

An arm is a name with its records, one for each seed: `arms = {"small CNN": [record, ...], ...}`. Accuracies are in
percent, losses in nats; a spread is the sample standard deviation (ddof 1) with the number of runs beside it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from torch import nn

from kdutils.data.datasets import Dataset
from kdutils.data.views import split_indices
from kdutils.errors import InputError
from kdutils.networks.counting import accounting, forward_macs, layer_summary
from kdutils.networks.registry import build_model
from kdutils.report.statistics import Arms, Gain, agreement, calibration_error, confusion, spread, value
from kdutils.runs.records import Record
from kdutils.settings import ROOT
from kdutils.training.frozen import freeze

PUBLISHED = ROOT / "reports" / "published.csv"


def published(study: str) -> pd.DataFrame:
    """The published values of a study: arm, split, metric, value, remark."""
    table = pd.read_csv(PUBLISHED, keep_default_na=False, dtype={"value": float})
    known = sorted(table["study"].unique())
    if study not in known:
        raise InputError(f"nothing is published for {study!r}: allowed are {', '.join(known)}")
    return table[table["study"] == study].drop(columns="study").reset_index(drop=True)


def compare(arms: Arms, study: str, absent: Literal["skip", "show"] = "skip") -> pd.DataFrame:
    """Ours beside published: a row for every published value of an arm, and our difference from it.

    What is published of an arm that is not among `arms` is left out, or shown as "not yet run".
    """
    rows = []
    for row in published(study).query("metric in ('accuracy', 'loss')").itertuples():
        metric, digits = ("accuracy (%)", 2) if row.metric == "accuracy" else ("loss (nats)", 3)
        if row.arm in arms:
            ours = [value(record, row.split, row.metric) for record in arms[row.arm]]
            difference = f"{np.mean(ours) - row.value:+.{digits}f}"
            rows.append(
                (row.arm, row.split, metric, spread(ours, digits), len(ours), f"{row.value:g}", difference, row.remark)
            )
        elif absent == "show":
            rows.append((row.arm, row.split, metric, "not yet run", 0, f"{row.value:g}", "–", row.remark))
    return pd.DataFrame(
        rows, columns=["classifier", "split", "metric", "ours", "n", "published", "difference", "remark"]
    )


def published_sentences(arms: Arms, study: str) -> str:
    """One sentence for each published accuracy of these arms: ours, the document's, and the difference."""
    sentences = []
    for row in published(study).query("metric == 'accuracy' and split != 'train'").itertuples():
        if row.arm in arms:
            ours = [value(record, row.split, "accuracy") for record in arms[row.arm]]
            difference = np.mean(ours) - row.value
            word = "more" if difference >= 0 else "less"
            sentences.append(
                f"{row.arm}, {row.split}: {spread(ours)} % here (n={len(ours)}), {row.value:g} % in the document, {abs(difference):.2f} points {word}."
            )
    return "\n".join(f"- {sentence}" for sentence in sentences)


def networks_table(arms: Arms, study: str) -> pd.DataFrame:
    """Networks as a study compares them: test accuracy (%), parameters, and the bytes they are stored in, beside published.

    A binary network's bytes are those of its packed file's content (`kdutils.packing`), another's 4 for each number.
    """
    known = {(row.arm, row.metric): row.value for row in published(study).itertuples()}
    rows = []
    for name, records in arms.items():
        accuracy, parameters = known.get((name, "accuracy")), known.get((name, "parameters"))
        stored = accounting(
            build_model(records[0].spec.model.name, records[0].spec.data.num_classes, **records[0].spec.model.options)
        )
        rows.append(
            {
                "network": name,
                "n": len(records),
                "test (%)": spread([record.metric("test") for record in records]),
                "published (%)": "–" if accuracy is None else f"{accuracy:g}",
                "parameters": f"{stored['parameters'].sum():,}",
                "published parameters": "–" if parameters is None else f"{parameters / 1e6:.1f} million",
                "stored (bytes)": f"{stored['bytes'].sum():,}",
                "in full precision (bytes)": f"{stored['float bytes'].sum():,}",
            }
        )
    return pd.DataFrame(rows)


def precision_table(models: dict[str, nn.Module]) -> pd.DataFrame:
    """What binarising saves: parameters, stored bytes and MACs of one image, and the share of each that is 1 bit."""
    rows = []
    for name, model in models.items():
        table = accounting(model)
        bits = table[table["precision"] == "1 bit"]
        rows.append(
            {
                "network": name,
                "parameters": f"{table['parameters'].sum():,}",
                "1-bit parameters (%)": f"{100 * bits['parameters'].sum() / table['parameters'].sum():.3g}",
                "MACs": f"{table['MACs'].sum():,}",
                "1-bit MACs (%)": f"{100 * bits['MACs'].sum() / table['MACs'].sum():.3g}",
                "stored (bytes)": f"{table['bytes'].sum():,}",
                "times smaller": f"{table['float bytes'].sum() / table['bytes'].sum():.4g}",
            }
        )
    return pd.DataFrame(rows)


def stem_sentence(stem: nn.Module, blocks: nn.Module) -> str:
    """What binarising only the stem touches and saves, beside what binarising the blocks does."""
    parts = []
    for model in (stem, blocks):
        table = accounting(model)
        touched = 100 * table.loc[table["precision"] == "1 bit", "MACs"].sum() / table["MACs"].sum()
        parts += [touched, 100 * (1 - table["bytes"].sum() / table["float bytes"].sum())]
    return (
        f"Binarising only the first convolution touches {parts[0]:.2g} % of the multiplications and saves {parts[1]:.2g} % of the bytes; "
        f"binarising the blocks' convolutions touches {parts[2]:.1f} % and saves {parts[3]:.1f} %."
    )


def metrics_table(arms: Arms) -> pd.DataFrame:
    """Loss (nats) and accuracy (%) on every split there is after the last epoch, a row for each arm with its n runs."""
    rows = []
    for name, records in arms.items():
        row = {"classifier": name, "n": len(records)}
        for split in (
            split for split in ("train", "val", "test") if all(split in record.summary["metrics"] for record in records)
        ):
            row[f"{split} loss"] = spread([value(record, split, "loss") for record in records], 3)
            row[f"{split} (%)"] = spread([value(record, split, "accuracy") for record in records])
        rows.append(row)
    return pd.DataFrame(rows)


def cost_table(arms: Arms) -> pd.DataFrame:
    """Size and measured cost of an arm's runs: parameters, MACs of a forward pass, seconds, images per second, memory."""
    rows = []
    for name, records in arms.items():
        spec, summary = records[0].spec, records[0].summary
        rows.append(
            {
                "classifier": name,
                "n": len(records),
                "parameters": f"{summary['parameters']:,}",
                "MACs per image": f"{forward_macs(spec.model.name, spec.data.num_classes, spec.model.options):,}",
                "training time (s)": spread([r.summary["seconds"] for r in records], 0),
                "images/s": spread([r.summary["images_per_second"] for r in records], 0),
                "peak memory (MB)": f"{max(r.summary['peak_memory_mb'] for r in records):,.0f}",
            }
        )
    return pd.DataFrame(rows)


def published_gain(study: str, treated: str, control: str) -> str:
    """The difference of two published test accuracies as a sentence, and what the document itself claims it to be."""
    known = {(row.arm, row.metric): row.value for row in published(study).itertuples() if row.split == "test"}
    ours, theirs, claimed = known[treated, "accuracy"], known[control, "accuracy"], known.get((treated, "claimed gain"))
    claim = "" if claimed is None else f"; its text claims more than {claimed:g} %"
    return f"In the document, the {treated} has {ours:g} % and the {control} {theirs:g} %, a difference of {ours - theirs:.2f} points{claim}."


def gains_table(gains: list[Gain]) -> pd.DataFrame:
    """Paired gains, a row each: mean, SD, 95% confidence interval (percentage points), number of pairs."""
    rows = [
        (
            g.treated,
            g.control,
            f"{g.mean:+.2f}",
            *((f"{g.deviation:.2f}", f"[{g.low:+.2f}, {g.high:+.2f}]") if g.n > 1 else ("–", "–")),
            g.n,
        )
        for g in gains
    ]
    return pd.DataFrame(rows, columns=["classifier", "against", "gain (points)", "SD", "95% CI", "pairs"])


def grid_table(records: list[Record]) -> pd.DataFrame:
    """Validation accuracy (%) by kd_weight (rows) and temperature (columns); a student alone is kd_weight 0, whatever the
    temperature."""
    taught = [(r.spec.distillation.method, r) for r in records if r.spec.distillation]
    cells = [(kd.kd_weight, kd.temperature, r.metric("val")) for kd, r in taught]
    cells += [
        (0.0, t, r.metric("val"))
        for r in records
        if not r.spec.distillation
        for t in sorted({kd.temperature for kd, _ in taught})
    ]
    return pd.DataFrame(cells, columns=["kd_weight", "temperature", "accuracy"]).pivot(
        index="kd_weight", columns="temperature", values="accuracy"
    )


def confused_sentence(records: list[Record], classes) -> str:
    """Names the pair of classes that is confused most, and the class that is recognised best."""
    share = np.mean([confusion(record) for record in records], axis=0)
    best = int(np.diag(share).argmax())
    errors = share - np.diag(np.diag(share))
    true, predicted = np.unravel_index(errors.argmax(), errors.shape)
    return (
        f"The most frequent error takes {classes[true]} for {classes[predicted]} ({errors[true, predicted]:.1f} % of that class); "
        f"{classes[best]} is recognised best ({share[best, best]:.1f} %)."
    )


def ranking_sentence(arms: Arms) -> str:
    """All arms by mean test accuracy, and how many times larger the best network is than the smallest."""
    means = {name: np.mean([record.metric("test") for record in records]) for name, records in arms.items()}
    order = sorted(arms, key=means.get, reverse=True)
    sizes = {name: records[0].summary["parameters"] for name, records in arms.items()}
    smallest = min(sizes, key=sizes.get)
    ranking = ", ".join(f"{name} ({means[name]:.2f} %)" for name in order)
    return f"By mean test accuracy: {ranking}. The first of them has {sizes[order[0]] / sizes[smallest]:.1f} times the parameters of the small CNN."


def agreement_table(arms: Arms, teachers: Arms) -> pd.DataFrame:
    """How often (% of the test images) an arm gives a teacher's class, and its expected calibration error (%)."""
    rows = [
        {"classifier": name}
        | {
            f"agrees with {teacher} (%)": spread([agreement(record, runs[0]) for record in records])
            for teacher, runs in teachers.items()
        }
        | {"calibration error (%)": spread([calibration_error(record) for record in records])}
        for name, records in arms.items()
    ]
    return pd.DataFrame(rows)


def memory_table(models: dict[str, nn.Module]) -> pd.DataFrame:
    """torchsummary's totals, a column for each network: numbers of parameters, and sizes in MB for one image."""
    totals = {name: layer_summary(model)[1] for name, model in models.items()}
    rows = []
    for quantity in next(iter(totals.values())):
        layout = "{:,.0f}" if "params" in quantity else "{:.2f} MB"
        rows.append({"quantity": quantity} | {name: layout.format(values[quantity]) for name, values in totals.items()})
    return pd.DataFrame(rows)


def dataset_table(dataset: Dataset, spec) -> pd.DataFrame:
    """Every class with its number of training, validation and test images in this study's split."""
    train, val = split_indices(dataset.train_labels, *spec.split)
    test = dataset.test_labels[: spec.test_size]
    counts = [
        np.bincount(labels, minlength=len(dataset.classes))
        for labels in (dataset.train_labels[train], dataset.train_labels[val], test)
    ]
    table = pd.DataFrame({"class": dataset.classes, "training": counts[0], "validation": counts[1], "test": counts[2]})
    total = pd.DataFrame([("all", *(int(count.sum()) for count in counts))], columns=table.columns)
    return pd.concat([table, total], ignore_index=True)


def policies_table(records: list[Record]) -> pd.DataFrame:
    """What trains, side by side: stem, policy, trained parameters, accuracies (%) after the last epoch, training time."""
    rows = []
    for record in records:
        spec = record.spec
        model = record.load_model()
        freeze(model, spec.trainable)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        accuracies = [f"{record.metric(split):.2f}" for split in ("train", "val", "test")]
        rows.append(
            (
                spec.model.option("stem"),
                spec.trainable,
                f"{trained:,}",
                *accuracies,
                f"{record.summary['seconds']:.0f}",
            )
        )
    return pd.DataFrame(
        rows, columns=["stem", "trained", "trained parameters", "train (%)", "val (%)", "test (%)", "time (s)"]
    )


def provenance(records: list[Record]) -> pd.DataFrame:
    """Where the numbers come from: data, weights, machines, versions and code of these runs, each with its runs."""
    facts: dict[tuple[str, str], int] = {}
    for record in records:
        summary = record.summary
        named = {
            "data": f"{summary['data']['title']} (digest {summary['data']['digest']})",
            "initial weights": summary["weights"] or "random",
        }
        for item in (named | summary["environment"]).items():
            facts[item] = facts.get(item, 0) + 1
    rows = [(name, fact, count) for (name, fact), count in sorted(facts.items(), key=lambda item: item[0][0])]
    return pd.DataFrame(rows, columns=["what", "value", "runs"])
