"""The cost of networks and runs, counted or measured on this machine."""

import copy
import statistics
from timeit import Timer

import numpy as np
import pandas as pd
import torch
from torch import nn

from kdutils.errors import InputError
from kdutils.machine import detect_runtime
from kdutils.networks.counting import accounting, forward_macs
from kdutils.networks.registry import build_model
from kdutils.report.statistics import Arms, count, finished, spread, values
from kdutils.report.tables import published
from kdutils.runs.records import Record
from kdutils.training.frozen import freeze


def precision_table(models: dict[str, nn.Module]) -> pd.DataFrame:
    """What binarising saves: parameters and MACs of one image with their 1-bit shares, stored bytes and those saved."""
    rows = []
    for table in map(accounting, models.values()):
        total, bits = table.sum(numeric_only=True), table[table["precision"] == "1 bit"].sum(numeric_only=True)
        shares = [f"{100 * bits[column] / total[column]:.3g}" for column in ("parameters", "MACs")]
        sizes = [f"{total[column]:,}" for column in ("parameters", "MACs", "bytes")]
        saved = f"{100 * (1 - total['bytes'] / total['float bytes']):.3g}"
        rows.append((sizes[0], shares[0], sizes[1], shares[1], sizes[2], saved))
    titles = ["parameters", "1-bit parameters (%)", "MACs", "1-bit MACs (%)", "stored (bytes)", "bytes saved (%)"]
    return pd.DataFrame(rows, columns=titles, index=pd.Index(models, name="network")).reset_index()


def stem_sentence(stem: nn.Module, blocks: nn.Module) -> str:
    """A sentence: what binarising only the stem touches and saves, compared with binarising the blocks."""
    table = precision_table({"only the first convolution": stem, "the blocks' convolutions": blocks})
    said = "binarising {} touches {} % of the multiplications and saves {} % of the bytes".format
    first, second = map(said, table["network"], table["1-bit MACs (%)"], table["bytes saved (%)"])
    return f"{first.capitalize()}; {second}."


def networks_table(arms: Arms, study: str) -> pd.DataFrame:
    """A study's networks: test accuracy (%) and parameters, ours beside the published ones, and stored bytes.

    The bytes of a binary network are those of its packed file's content; any other network has 4 for each number.
    """
    known = {(row.arm, row.metric): row.value for row in published(study).itertuples()}
    rows = []
    for name, records in arms.items():
        spec = records[0].spec
        model = build_model(spec.model.name, spec.data.num_classes, **spec.model.options)
        stored = accounting(model)[["parameters", "bytes", "float bytes"]].sum().map("{:,}".format)
        accuracy, parameters = (known.get((name, metric)) for metric in ("accuracy", "parameters"))
        theirs = f"{accuracy:.2f}" if accuracy else "–", f"{parameters / 1e6:.1f} million" if parameters else "–"
        rows.append((name, count(records), spread(values(records, "test")), *theirs, *stored))
    titles = ["network", "n", "test (%)", "published (%)", "published parameters", "parameters", "stored (bytes)"]
    return pd.DataFrame(rows, columns=[*titles, "in full precision (bytes)"])


def cost_table(arms: Arms) -> pd.DataFrame:
    """Size and measured cost of each arm's runs: parameters, MACs of a forward pass, seconds, images/s, peak memory."""
    rows = []
    for name, records in arms.items():
        spec, ran = records[0].spec, [record.summary for record in finished(records)]
        macs = forward_macs(spec.model.name, spec.data.num_classes, **spec.model.options)
        measured = [spread((each[fact] for each in ran), 0) for fact in ("seconds", "images_per_second")]
        peaks = [each["peak_memory_mb"] for each in ran if each["peak_memory_mb"]]  # unknown for some runs
        memory = "–" if ran and not peaks else spread(peaks and [max(peaks)], 0)
        sizes = f"{records[0].summary['parameters']:,}", f"{macs:,}"
        rows.append((name, count(records), *sizes, *measured, memory))
    titles = ["classifier", "n", "parameters", "MACs per image", "training time (s)", "images/s"]
    return pd.DataFrame(rows, columns=[*titles, "peak memory of worker (MB)"])


def policies_table(policies: dict[str, Record]) -> pd.DataFrame:
    """A row for each choice of what trains: trained parameters, accuracies (%) after the last epoch, seconds."""
    rows = []
    for name, record in policies.items():
        model = record.load_model()
        freeze(model, record.spec.trainable)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        accuracies = [spread(values([record], split)) for split in ("train", "val", "test")]
        rows.append((name, f"{trained:,}", *accuracies, f"{record.summary['seconds']:.0f}"))
    titles = ["what trains", "trained parameters", "train (%)", "val (%)", "test (%)", "time (s)"]
    return pd.DataFrame(rows, columns=titles)


def time_sentence(*groups: Arms | list[Record]) -> str:
    """A sentence: how long the training of these runs took, each counted once, without their teachers' tables."""
    lists = [records for group in groups for records in (group.values() if isinstance(group, dict) else [group])]
    spent = {record.spec.key: record.summary["seconds"] for records in lists for record in records}
    seconds = sum(spent.values())
    shown = f"{seconds / 60:,.0f} minutes" if seconds >= 120 else f"{seconds:,.0f} seconds"
    runs = "1 run" if len(spent) == 1 else f"{len(spent)} runs"
    return (
        f"Run time: the training of the {runs} shown here, each on one worker, adds up to {shown}; a chapter that "
        "finds its runs in the store reads them instead."
    )


def inference_table(models: dict[str, nn.Module], batches=(1, 64), seconds: float = 0.5) -> pd.DataFrame:
    """What networks cost in use; the last row has the ratios of the first network to the last (teacher to student).

    Columns: network; parameters; MACs of a 3 x 32 x 32 image; bytes of its numbers as float32; and medians, measured
    here for at least `seconds` each: milliseconds for a batch of size `batches[0]`, images/s at size `batches[1]`.
    """
    if len(models) < 2 or not seconds > 0 or min(batches) < 1:
        raise InputError("inference_table takes two networks or more, batches of at least 1 and more than 0 seconds")
    counted = pd.DataFrame({name: accounting(model).sum(numeric_only=True) for name, model in models.items()}).T
    table = counted[["parameters", "MACs", "float bytes"]]
    table = table.set_axis(["parameters", "MACs per image", "float32 (bytes)"], axis="columns")
    measured = np.array([[_forward_seconds(model, batch, seconds) for batch in batches] for model in models.values()])
    table[f"ms at batch {batches[0]}"] = 1000 * measured[:, 0]
    table[f"images/s at batch {batches[1]}"] = batches[1] / measured[:, 1]
    shown = table.apply(lambda column: column.map(("{:,.2f}" if column.name.startswith("ms") else "{:,.0f}").format))
    shown.loc[f"{table.index[0]} over {table.index[-1]}"] = (table.iloc[0] / table.iloc[-1]).map("{:.3g}".format)
    return shown.rename_axis("network").reset_index()


@torch.inference_mode()
def _forward_seconds(model: nn.Module, batch: int, seconds: float) -> float:
    """Median seconds of a forward pass in evaluation mode, in the suite's number format, with all threads."""
    runtime, images = detect_runtime(), torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    parts = (copy.deepcopy(model).eval(), images)
    model, images = (part.to(runtime.device, memory_format=torch.channels_last) for part in parts)
    with runtime.autocast():  # one context: it keeps the weights that it has cast
        timer = Timer(lambda: model(images).cpu())  # .cpu() waits for a GPU
        timer.timeit(1)  # warms up
        measured = []
        while sum(measured) < seconds:
            measured.append(timer.timeit(1))
        return statistics.median(measured)
