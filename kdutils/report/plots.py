"""Figures: pure functions of records and data that return a matplotlib Figure.

Colours are Okabe and Ito's, safe for colour-blind readers; dash and marker differ too, so that all can be read in grey.
"""

import textwrap
from collections.abc import Sequence
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from scipy.special import softmax

from kdutils.data.datasets import Dataset
from kdutils.data.views import allowed_views, render
from kdutils.distillation.methods import KD
from kdutils.networks.binary import binary_layers, sign, sign_activations, sign_weights
from kdutils.report.answers import Answer
from kdutils.report.statistics import FEW, Arms, Gain, Numbers, confusion, finished, values, with_diverged
from kdutils.runs.records import Record

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("solid", "dashed", "dotted", "dashdot", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)), (0, (1, 3)))
MARKERS = "osD^vPX<>*"
WIDEST = 8.3  # inches: the most that a page and JupyterLab show without scaling or scrolling
_CJK = "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Arial Unicode MS", "Microsoft YaHei", "Malgun Gothic"
_FONTS = ["sans-serif", *(font for font in _CJK if font in get_font_names())]  # fallbacks for missing characters
_LOOK = {"axes.grid": True, "grid.alpha": 0.3, "figure.constrained_layout.use": True, "svg.hashsalt": "kdutils"}
_LOOK |= {"font.family": _FONTS}
sns.set_theme(context="paper", style="ticks", palette=COLOURS, rc=_LOOK)


def _style(index: int) -> dict:
    """Colour, dash and marker of the arm with this number; the first 70 arms differ, in grey too."""
    colour, dash = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
    return {"color": colour, "linestyle": dash, "marker": MARKERS[index % len(MARKERS)]}


def _named(name: str, records: list[Record]) -> str:
    return with_diverged(name, len(records) - len(finished(records)))


def plot_curves(arms: Arms) -> Figure:
    """Accuracy (%) and loss (nats) by epoch, on training, validation and test images: one column for each arm.

    A line is the mean over seeds, its band their range from lowest to highest; runs that diverged are left out and
    counted, unless all did. Training values are those seen while training, under augmentation, averaged over the epoch.
    """
    size = (min(max(3.2 * len(arms), 4.5), WIDEST), 4.6)
    figure, axes = plt.subplots(2, len(arms), figsize=size, sharex="col", sharey="row", squeeze=False)
    for column, (name, records) in zip(axes.T, arms.items(), strict=True):
        histories = _histories(records)
        for axis, metric in zip(column, ("accuracy", "loss"), strict=True):
            for index, (split, title) in enumerate({"train": "training", "val": "validation", "test": "test"}.items()):
                if f"{split}_{metric}" in histories:  # a run may have no validation images, and few watch the test set
                    _band(axis, histories.groupby("epoch")[f"{split}_{metric}"], title, index)
        column[0].set_title(textwrap.fill(_named(name, records), 34 if len(arms) < 4 else 20))
        column[1].set_xlabel("epoch")
        column[1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[1, 0].set_ylabel("cross-entropy (nats)")
    lines = {line.get_label(): line for axis in axes[0] for line in axis.lines}
    figure.legend(handles=list(lines.values()), loc="outside upper center", ncols=3, frameon=False)
    return figure


def plot_overlay(arms: Arms, column: str = "val_accuracy", label: str = "validation accuracy (%)") -> Figure:
    """One column of the histories by epoch, all arms in one plot; mean and range over seeds, as in `plot_curves`.

    The column `train_loss` is the cross-entropy.
    """
    figure, axis = plt.subplots(figsize=(7.2, 3.4))
    for index, (name, records) in enumerate(arms.items()):
        _band(axis, _histories(records).groupby("epoch")[column], _named(name, records), index)
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _histories(records: list[Record]) -> pd.DataFrame:
    """The histories of an arm's runs, concatenated, with the cross-entropy as `train_loss`, which all runs have."""
    histories = pd.concat([record.history for record in finished(records) or records])
    if "train_ce" in histories:  # a distilled run's objective includes T^2 KL: not comparable
        histories["train_loss"] = histories["train_ce"]
    return histories


def _band(axis: plt.Axes, groups, label: str, index: int) -> None:
    mean, style = groups.mean(), _style(index)
    axis.plot(mean.index, mean, **style, markersize=3, markevery=max(1, len(mean) // 10), label=label)
    axis.fill_between(mean.index, groups.min(), groups.max(), color=style["color"], alpha=0.2, linewidth=0)


def plot_confusion(arms: Arms, classes: Sequence[str]) -> Figure:
    """The confusion matrix (% of a true class) of every arm, averaged over its seeds that did not diverge.

    Many classes are drawn as pixels, without names: a page cannot hold a path for each of a million cells.
    """
    columns, few = min(2, len(arms)), len(classes) <= FEW
    rows, names = -(-len(arms) // columns), classes if few else False
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 4 * rows), squeeze=False, visible=False)
    look = {"cmap": "cividis", "vmin": 0, "vmax": 100, "square": True, "cbar": not few, "fmt": ".0f", "annot": few}
    look |= {"rasterized": not few}
    for axis, (name, records) in zip(axes.flat, arms.items(), strict=False):
        if finished(records):
            share = confusion(records)
            sns.heatmap(share, ax=axis, annot_kws={"size": 7}, xticklabels=names, yticklabels=names, **look)
        axis.set(title=textwrap.fill(_named(name, records), 30), xlabel="predicted class", ylabel="true class")
        axis.tick_params(axis="x", rotation=60)
        axis.tick_params(axis="y", rotation=0)
    for axis in axes.flat[len(arms) :]:
        axis.remove()
    figure.set_visible(True)  # not before: seaborn draws the whole figure for every panel, to see whether names overlap
    return figure


def plot_estimators() -> Figure:
    """The sign function and its stand-ins in training: the functions, and their slopes, the pseudo-gradients."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.8))
    x = torch.linspace(-1.6, 1.6, 641, requires_grad=True)
    polynomial = torch.where(x.abs() < 1, torch.where(x < 0, 2 * x + x**2, 2 * x - x**2), sign(x.detach()))
    activations = ("activations: piecewise polynomial", polynomial, sign_activations)
    weights = ("weights: clipped identity", x.clamp(-1, 1), sign_weights)
    axes[0].plot(x.detach(), sign(x.detach()), color="black", linewidth=1, label="sign")
    for index, (label, approximation, estimator) in enumerate((activations, weights), 1):
        (slope,) = torch.autograd.grad(estimator(x).sum(), x)
        for axis, curve in zip(axes, (approximation.detach(), slope), strict=True):
            axis.plot(x.detach(), curve, **_style(index) | {"marker": ""}, label=label)
    axes[0].set(xlabel="value", ylabel="forward value")
    axes[1].set(xlabel="value", ylabel="pseudo-gradient")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_latent_weights(arms: Arms) -> Figure:
    """Distribution of the binary layers' latent weights, in units of the binary value that stands for them: its mode
    is at +1 and -1 where the weights are bimodal. Shows the first run of each arm that did not diverge."""
    figure, axis = plt.subplots(figsize=(6.4, 2.8))
    edges = np.linspace(-3, 3, 121)
    for index, (name, records) in enumerate(arms.items()):
        layers = [layer for record in finished(records)[:1] for _, layer in binary_layers(record.load_model())]
        latent = [(layer.weight / layer.signs_and_scale()[1]).detach().flatten() for layer in layers]
        density, _ = np.histogram(torch.cat(latent or [torch.empty(0)]).numpy(), edges, density=bool(latent))
        label, style = _named(name, records), _style(index) | {"marker": ""}
        axis.plot((edges[1:] + edges[:-1]) / 2, density, **style, label=label)
    axis.set(xlabel="latent weight / scale of its layer or kernel", ylabel="density", ylim=(0, None))
    axis.legend()
    return figure


def plot_grid(table: pd.DataFrame, best: KD) -> Figure:
    """A `grid_table` of validation accuracies (%) as a heat map; the cell of `best`, the chosen method, is framed."""
    figure, axis = plt.subplots(figsize=(1.1 * table.shape[1] + 2.2, 0.6 * table.shape[0] + 1.4))
    shown = table.apply(pd.to_numeric, errors="coerce")
    sns.heatmap(shown, ax=axis, cmap="cividis", annot=True, fmt=".2f", cbar_kws={"label": "validation accuracy (%)"})
    for row, column in np.argwhere(table.eq("diverged").to_numpy()):
        axis.text(column + 0.5, row + 0.5, "diverged", ha="center", va="center")
    corner = table.columns.get_loc(best.temperature), table.index.get_loc(best.kd_weight)
    frame = axis.add_patch(plt.Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=2))
    frame.set(path_effects=[withStroke(linewidth=5, foreground="white")], clip_on=False)
    axis.set(xlabel="temperature", ylabel="kd_weight")
    figure.results = table.attrs.get("results")  # which `Page.figure` reads
    return figure


def plot_images(dataset: Dataset, per_class: int = 8) -> Figure:
    """The first `per_class` training images of each of the first ten classes, a row for each class."""
    names, size, step = dataset.classes[:10], dataset.train_images.shape[1], dataset.train_images.shape[1] + 4
    sheet = np.full((step * len(names) - 4, step * per_class - 4, 3), 255, np.uint8)
    for row in range(len(names)):
        members = torch.nonzero(dataset.train_labels == row).flatten()[:per_class]
        for column, image in enumerate(dataset.train_images[members]):
            sheet[step * row :, step * column :][:size, :size] = image
    figure, axis = plt.subplots(figsize=(0.62 * per_class + 1, 0.62 * len(names)))
    _image(axis, torch.from_numpy(sheet))
    axis.set_yticks(step * np.arange(len(names)) + size / 2, names)
    axis.tick_params(axis="y", length=0)
    return figure


def plot_views(dataset: Dataset, image: int = 0, count: int = 16) -> Figure:
    """One training image in `count` of its 162 views, titled with their codes; the image itself first."""
    codes = allowed_views(count)
    pixels = render(dataset.train_images, torch.full((count,), image), torch.from_numpy(codes), "half")
    figure, axes = plt.subplots(2, count // 2, figsize=(0.95 * count / 2, 2.4))
    for axis, view, code in zip(axes.flat, pixels, codes, strict=True):
        _image(axis, view.permute(1, 2, 0) * 0.5 + 0.5)
        axis.set_title(f"view {code}", size=7)
    return figure


def _image(axis: plt.Axes, pixels: torch.Tensor) -> None:
    axis.imshow(np.asarray(pixels).clip(0, 255 if pixels.dtype == torch.uint8 else 1), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    sns.despine(ax=axis, left=True, bottom=True)


def plot_soft_labels(
    dataset: Dataset, images: np.ndarray, logits: np.ndarray, temperatures: Sequence[float] = (1, 2, 4, 8)
) -> Figure:
    """A teacher's soft labels, softmax(z / T), of test images at several temperatures ("dark knowledge").

    images: indices [N] into the test set; logits: float [N, classes]. If classes are many, each image's ten
    likeliest are shown.
    """
    rows, few = max(1, len(images)), len(dataset.classes) <= FEW
    figure, axes = plt.subplots(rows, 2, figsize=(7, (1.55 if few else 2.4) * rows), width_ratios=(1, 5), squeeze=False)
    for (left, right), image, z in zip(axes, images, logits, strict=False):
        _image(left, dataset.test_images[image])
        left.set_title(dataset.classes[dataset.test_labels[image]], size=8)
        shown = np.arange(len(z)) if few else np.argsort(-z)[:10]
        plot_bars(right, {f"T = {each:g}": softmax(z.astype(float) / each)[shown] for each in temperatures})
        right.set(ylabel="probability", ylim=(0, 1), xticks=range(len(shown)), xticklabels=[])
        if not few:
            right.set_xticklabels([dataset.classes[label] for label in shown], rotation=30, ha="right")
    if not len(images):
        axes[0, 1].set_title("no test image is classified correctly", y=0.5)
    if few:
        axes[-1, 1].set_xticks(range(len(dataset.classes)), dataset.classes, rotation=30)
    look = {"loc": "upper center", "bbox_to_anchor": (0.5, 1.45), "frameon": False}
    axes[0, 1].legend(handles=axes[0, 1].containers, ncols=len(temperatures), **look)
    return figure


def plot_bars(axis: plt.Axes, groups: dict[str, np.ndarray]) -> None:
    """Draws heights [N], by label, as bars side by side at 0 to N - 1; labels differ by colour and hatch."""
    width = 0.8 / len(groups)
    for index, (label, heights) in enumerate(groups.items()):
        look = {"color": COLOURS[index], "hatch": ("", "///", "...", "xxx")[index % 4], "label": label}
        places = np.arange(len(heights)) - 0.4 + (index + 0.5) * width
        axis.bar(places, heights, width, edgecolor="black", linewidth=0.3, **look)


def plot_cost_accuracy(arms: Arms, cost: Literal["parameters", "seconds"] = "parameters") -> Figure:
    """Test accuracy (%) against what a run costs (log scale): a point for each run, named by its arm."""
    figure, axis = plt.subplots(figsize=(7.2, 3.6))
    for index, (name, records) in enumerate(arms.items()):
        costs, style = [record.summary[cost] for record in finished(records)], _style(index)
        edge = {"markeredgecolor": "black", "markeredgewidth": 0.4, "linestyle": ""}
        axis.plot(costs, values(records, "test"), **style | edge, label=_named(name, records))
    label = {"parameters": "parameters", "seconds": "training time on one worker (s)"}[cost]
    axis.set(xscale="log", xlabel=label, ylabel="test accuracy (%)")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def plot_lambdas(arms: Arms, chosen: float, published: float = 1e-4) -> Figure:
    """Validation accuracy (%) of BONN's network by lambda, a line for each optimiser, from `Binary.lambdas`.

    The XNOR network of the same optimiser is a horizontal line; the chosen value and the published one are marked.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for index, name in enumerate(name for name in arms if name.startswith("BONN")):
        records, (xnor,) = finished(arms[name]), arms[name.replace("BONN", "XNOR")]
        points = [record.spec.bayesian.kernel_weight for record in records], values(records, "val")
        axis.plot(*points, **_style(2 * index), label=name)
        look = _style(2 * index + 1) | {"marker": "", "color": COLOURS[2 * index]}
        axis.axhline(xnor.metric("val"), **look, label=name.replace("BONN", "XNOR"))
    for value, text, dash in ((chosen, "used", "solid"), (published, "published", "dotted")):
        axis.axvline(value, color="black", linestyle=dash, linewidth=1, label=f"lambda {text}, {value:g}")
    tried = [record.spec.bayesian.kernel_weight for name in arms if name.startswith("BONN") for record in arms[name]]
    smallest = min(filter(None, tried))
    axis.set_xscale("symlog", linthresh=smallest)
    limits = smallest * (0.5 if min(tried) else -0.5), 2 * max(*tried, chosen, published)
    axis.set(xlim=limits, xlabel="lambda, weight of the kernel loss", ylabel="validation accuracy (%)")
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def plot_gains(gains: Sequence[Gain]) -> Figure:
    """Paired gains in test accuracy (percentage points) with their 95% confidence intervals."""
    figure, axis = plt.subplots(figsize=(7.2, 0.5 * len(gains) + 1.3))
    for row, gain in enumerate(gains):
        error = [[gain.mean - gain.low], [gain.high - gain.mean]] if gain.n > 1 else None
        axis.errorbar(gain.mean, row, xerr=error, capsize=4, **_style(row) | {"linestyle": ""})
    axis.axvline(0, color="black", linewidth=0.8)
    names = [textwrap.fill(with_diverged(gain.treated, gain.diverged), 34) for gain in gains]
    axis.set(yticks=range(len(gains)), yticklabels=names, ylim=(len(gains) - 0.5, -0.5))
    over = "; ".join(dict.fromkeys(gain.over for gain in gains))
    label = textwrap.fill(f"95% confidence interval {over}", 70)
    axis.set_xlabel(f"gain in test accuracy (percentage points)\n{label}")
    return figure


def plot_answers(answers: dict[str, list[Answer]]) -> Figure:
    """Accuracies (%) by document: a dot for every seed, the mean with its 95% interval, and the published value."""
    shown = {name: [row for row in rows if not isinstance(row.ours, Gain)] for name, rows in answers.items()}
    lines = [line for document, rows in shown.items() if rows for line in (document, *rows)]
    figure, axis = plt.subplots(figsize=(7.2, 0.2 * len(lines) + 1.1))
    seen, marks = [], {}
    for place, row in enumerate(lines):
        if isinstance(row, str):
            axis.axhspan(place - 0.5, place + 0.5, color="0.92", linewidth=0)
            continue
        ours, ends = row.ours, row.ours.bounds if row.ours.n > 1 else ()
        half = ends[1] - ours.mean if ends else 0
        bar = axis.errorbar(ours.mean, place, xerr=half, color="black", fmt="|", markersize=9)
        (dots,) = axis.plot(ours.kept, [place] * ours.n, "o", color=COLOURS[0], markersize=4)
        marks |= {"ours: mean and 95% interval": bar, "ours: every seed": dots}
        seen += [*ours.kept, *ends]
        if row.published is not None:
            look = {"color": COLOURS[1], "markerfacecolor": "none", "markersize": 6, "zorder": 3}
            (marks["published"],) = axis.plot(row.published, place, "D", **look)
            seen.append(row.published)
    limits = max(0, min(seen, default=5) - 5), min(100, max(seen, default=95) + 5)
    axis.set(xlabel="accuracy (%)", xlim=limits, ylim=(len(lines) - 0.5, -0.5))
    names = [line if isinstance(line, str) else f"{line.what}, {line.images}" for line in lines]
    axis.set_yticks(range(len(lines)), names)
    for label, line in zip(axis.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if isinstance(line, str) else "normal")
    axis.grid(axis="y", visible=False)
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_seeds(arms: Arms, beside: str | None = None) -> Figure:
    """Test accuracy (%) of every run as a dot, and under the dots the mean with its 95% interval (Student's t).

    A dotted line goes through the mean of the arm `beside`.
    """
    figure, axis = plt.subplots(figsize=(7.2, 0.45 * len(arms) + 1.2))
    for row, (name, records) in enumerate(arms.items()):
        found = Numbers.of(dict(enumerate(values(records, "test"))))
        look = {"markeredgecolor": "black", "markeredgewidth": 0.4, "alpha": 0.8, "linestyle": ""}
        axis.plot(found.kept, [row] * found.n, **_style(row) | look)
        if found.n:
            half = found.bounds[1] - found.mean if found.n > 1 else None
            axis.errorbar(found.mean, row + 0.3, xerr=half, color="black", fmt="|", capsize=3)
        if name == beside and found.n:
            axis.axvline(found.mean, color="black", linewidth=0.8, linestyle="dotted")
    names = [textwrap.fill(_named(name, records), 34) for name, records in arms.items()]
    axis.set(yticks=range(len(arms)), yticklabels=names, ylim=(len(arms) - 0.4, -0.5), xlabel="test accuracy (%)")
    return figure
