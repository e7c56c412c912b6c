"""Figures: pure functions of records and data that return a matplotlib Figure.

Colours are Okabe and Ito's, safe for colour-blind readers; lines differ in dash and marker too, so all reads in grey.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from kdutils.data.datasets import Dataset
from kdutils.data.views import allowed_views, render
from kdutils.distillation.methods import KD
from kdutils.networks.binary import binary_layers, sign, sign_activations, sign_weights
from kdutils.report.statistics import Arms, Gain, confusion
from kdutils.runs.records import Record

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


DASHES = ("solid", "dashed", "dotted", "dashdot", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)), (0, (1, 3)))


MARKERS = "osD^vPX"


sns.set_theme(
    context="paper",
    style="ticks",
    palette=COLOURS,
    rc={"axes.grid": True, "grid.alpha": 0.3, "figure.constrained_layout.use": True, "svg.hashsalt": "kdutils"},
)


def plot_curves(arms: Arms) -> Figure:
    """Accuracy (%) and loss (nats) by epoch, on training, validation and test images: one column for each arm.

    A line is the mean over seeds, its band their smallest and largest value. Training values are those seen while
    training, under augmentation, averaged over the epoch.
    """
    figure, axes = plt.subplots(
        2, len(arms), figsize=(max(3.2 * len(arms), 4.5), 4.6), sharex="col", sharey="row", squeeze=False
    )
    for column, (name, records) in enumerate(arms.items()):
        histories = _histories(records)
        for row, (metric, label) in enumerate((("accuracy", "accuracy (%)"), ("loss", "cross-entropy (nats)"))):
            axis = axes[row, column]
            for index, (split, title) in enumerate((("train", "training"), ("val", "validation"), ("test", "test"))):
                if f"{split}_{metric}" in histories:  # a run may have no validation images, and few watch the test set
                    _band(axis, histories.groupby("epoch")[f"{split}_{metric}"], title, index)
            axis.set_ylabel(label if column == 0 else "")
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("epoch")
        axes[1, column].xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].legend(loc="lower right")
    return figure


def plot_overlay(arms: Arms, column: str = "val_accuracy", label: str = "validation accuracy (%)") -> Figure:
    """One column of the histories by epoch, all arms in one plot; mean and range over seeds. `train_loss` is the cross-entropy."""
    figure, axis = plt.subplots(figsize=(7.2, 3.4))
    for index, (name, records) in enumerate(arms.items()):
        _band(axis, _histories(records).groupby("epoch")[column], name, index)
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _histories(records: list[Record]) -> pd.DataFrame:
    """The histories of an arm, one under the other, with the training loss that all runs share."""
    histories = pd.concat([record.history for record in records])
    if "train_ce" in histories:  # the objective of a distilled run holds T^2 KL too: not comparable
        histories["train_loss"] = histories["train_ce"]
    return histories


def _band(axis: plt.Axes, groups, label: str, index: int) -> None:
    mean, low, high, index = groups.mean(), groups.min(), groups.max(), index % len(COLOURS)
    axis.plot(
        mean.index,
        mean,
        color=COLOURS[index],
        linestyle=DASHES[index],
        marker=MARKERS[index],
        markersize=3,
        markevery=max(1, len(mean) // 10),
        label=label,
    )
    axis.fill_between(mean.index, low, high, color=COLOURS[index], alpha=0.2, linewidth=0)


def plot_confusion(arms: Arms, classes: Sequence[str]) -> Figure:
    """The confusion matrix (% of a true class) of every arm, averaged over its seeds."""
    columns = min(2, len(arms))
    rows = -(-len(arms) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.4 * columns, 4.2 * rows), squeeze=False)
    for axis, (name, records) in zip(axes.flat, arms.items()):
        share = np.mean([confusion(record) for record in records], axis=0)
        many = len(classes) > 20
        sns.heatmap(share, ax=axis, cmap="cividis", vmin=0, vmax=100, square=True, annot=not many, fmt=".0f", annot_kws={"size": 7}, cbar=False,
                    xticklabels=False if many else classes, yticklabels=False if many else classes)  # fmt: skip
        axis.set(title=textwrap.fill(name, 30), xlabel="predicted class", ylabel="true class")
        axis.tick_params(axis="x", rotation=60)
        axis.tick_params(axis="y", rotation=0)
    for axis in axes.flat[len(arms) :]:
        axis.remove()
    return figure


def plot_estimators() -> Figure:
    """sign and what stands in for it while training: the functions, and their slopes, which are the pseudo-gradients."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.8))
    values = torch.linspace(-1.6, 1.6, 641, requires_grad=True)
    polynomial = torch.where(values < 0, 2 * values + values**2, 2 * values - values**2).clamp(-1, 1)
    polynomial = torch.where(values.abs() < 1, polynomial, sign(values.detach()))
    approximations = (
        ("activations: piecewise polynomial", polynomial, sign_activations),
        ("weights: clipped identity", values.clamp(-1, 1), sign_weights),
    )
    axes[0].plot(values.detach(), sign(values.detach()), color="black", linewidth=1, label="sign")
    for index, (label, approximation, estimator) in enumerate(approximations, 1):
        (slope,) = torch.autograd.grad(estimator(values).sum(), values)
        for axis, curve in zip(axes, (approximation.detach(), slope)):
            axis.plot(values.detach(), curve, color=COLOURS[index], linestyle=DASHES[index], label=label)
    axes[0].set(xlabel="value", ylabel="forward value")
    axes[1].set(xlabel="value", ylabel="pseudo-gradient")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_latent_weights(arms: Arms) -> Figure:
    """Distribution of the binary layers' latent weights, in units of the binary value that stands for them: its mode
    is at +1 and -1 where the weights are bimodal. First seed of each arm."""
    figure, axis = plt.subplots(figsize=(6.4, 2.8))
    edges = np.linspace(-3, 3, 121)
    for index, (name, records) in enumerate(arms.items()):
        with torch.no_grad():
            latent = [layer.weight / layer.binarised()[1] for _, layer in binary_layers(records[0].load_model())]
        density, _ = np.histogram(torch.cat([weights.flatten() for weights in latent]).numpy(), edges, density=True)
        axis.plot((edges[1:] + edges[:-1]) / 2, density, color=COLOURS[index], linestyle=DASHES[index], label=name)
    axis.set(xlabel="latent weight / scale of its layer or kernel", ylabel="density", ylim=(0, None))
    axis.legend()
    return figure


def plot_grid(table: pd.DataFrame, best: KD) -> Figure:
    """Validation accuracy (%) by kd_weight and temperature as a heat map; the cell of `best` is framed."""
    figure, axis = plt.subplots(figsize=(1.1 * table.shape[1] + 2.2, 0.6 * table.shape[0] + 1.4))
    sns.heatmap(table, ax=axis, cmap="cividis", annot=True, fmt=".2f", cbar_kws={"label": "validation accuracy (%)"})
    row, column = table.index.get_loc(best.kd_weight), table.columns.get_loc(best.temperature)
    axis.add_patch(plt.Rectangle((column, row), 1, 1, fill=False, edgecolor="#D55E00", linewidth=3))
    axis.set(xlabel="temperature", ylabel="kd_weight")
    return figure


def plot_images(dataset: Dataset, per_class: int = 8) -> Figure:
    """The first training images of every class, a row each."""
    classes = range(min(10, len(dataset.classes)))
    figure, axes = plt.subplots(len(classes), per_class, figsize=(0.62 * per_class + 1, 0.62 * len(classes)))
    for label in classes:
        members = torch.nonzero(dataset.train_labels == label).flatten()[:per_class]
        for axis, image in zip(axes[label], dataset.train_images[members]):
            _image(axis, image)
        axes[label, 0].set_ylabel(dataset.classes[label], rotation=0, ha="right", va="center")
    return figure


def plot_views(dataset: Dataset, image: int = 0, count: int = 16) -> Figure:
    """One training image in `count` of its 162 views, titled with their codes; the image itself first."""
    codes = allowed_views(count)
    pixels = render(dataset.train_images, torch.full((count,), image), torch.from_numpy(codes), "half")
    figure, axes = plt.subplots(2, count // 2, figsize=(0.95 * count / 2, 2.4))
    for axis, view, code in zip(axes.flat, pixels, codes):
        _image(axis, view.permute(1, 2, 0) * 0.5 + 0.5)
        axis.set_title(f"view {code}", size=7)
    return figure


def plot_soft_labels(
    dataset: Dataset, images: np.ndarray, logits: np.ndarray, temperatures: Sequence[float] = (1, 2, 4, 8)
) -> Figure:
    """A teacher's soft labels, softmax(z / T), of test images at several temperatures ("dark knowledge").

    images: indices [N] into the test set; logits: float [N, classes].
    """
    figure, axes = plt.subplots(len(images), 2, figsize=(7, 1.55 * len(images)), width_ratios=(1, 5), squeeze=False)
    places = np.arange(len(dataset.classes))
    width = 0.8 / len(temperatures)
    for row, (image, z) in enumerate(zip(images, logits)):
        _image(axes[row, 0], dataset.test_images[image])
        axes[row, 0].set_title(dataset.classes[dataset.test_labels[image]], size=8)
        for index, temperature in enumerate(temperatures):
            soft = torch.softmax(torch.from_numpy(z).double() / temperature, 0)
            axes[row, 1].bar(places + (index - (len(temperatures) - 1) / 2) * width, soft, width, color=COLOURS[index], edgecolor="black",
                             linewidth=0.3, hatch=("", "///", "...", "xxx")[index % 4], label=f"T = {temperature:g}")  # fmt: skip
        axes[row, 1].set(ylabel="probability", ylim=(0, 1), xticks=places)
        axes[row, 1].set_xticklabels(dataset.classes if row == len(images) - 1 else [], rotation=30)
    axes[0, 1].legend(ncols=len(temperatures), loc="upper center", bbox_to_anchor=(0.5, 1.45), frameon=False)
    return figure


def plot_size_accuracy(arms: Arms) -> Figure:
    """Test accuracy (%) against the number of parameters (log scale): a point for each run, named by its arm."""
    figure, axis = plt.subplots(figsize=(7.2, 3.6))
    for index, (name, records) in enumerate(arms.items()):
        sizes, accuracies = [r.summary["parameters"] for r in records], [r.metric("test") for r in records]
        axis.scatter(
            sizes,
            accuracies,
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(COLOURS)],
            s=36,
            label=name,
            edgecolor="black",
            linewidth=0.4,
        )
    axis.set(xscale="log", xlabel="parameters", ylabel="test accuracy (%)")
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def plot_gains(gains: Sequence[Gain]) -> Figure:
    """Paired gains in test accuracy (percentage points) with their 95% confidence intervals."""
    figure, axis = plt.subplots(figsize=(5.6, 0.5 * len(gains) + 1.1))
    for row, gain in enumerate(gains):
        error = [[gain.mean - gain.low], [gain.high - gain.mean]] if gain.n > 1 else None
        axis.errorbar(
            gain.mean, row, xerr=error, color=COLOURS[row % len(COLOURS)], marker=MARKERS[row % len(COLOURS)], capsize=4
        )
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(yticks=range(len(gains)), yticklabels=[gain.treated for gain in gains], ylim=(len(gains) - 0.5, -0.5))
    axis.set_xlabel("gain in test accuracy (percentage points)")
    return figure


def _image(axis: plt.Axes, pixels) -> None:
    axis.imshow(np.asarray(pixels).clip(0, 255 if pixels.dtype == torch.uint8 else 1), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    sns.despine(ax=axis, left=True, bottom=True)
