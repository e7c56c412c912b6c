"""Figures that explain what a formula does to numbers, before any run, and how confident the runs are.

As in `kdutils.report.plots`, each returns a matplotlib Figure; nothing is trained or saved.
"""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from scipy.special import softmax

from kdutils.distillation.losses import teacher_log_probabilities
from kdutils.report.plots import COLOURS, WIDEST, _named, _style, plot_bars
from kdutils.report.statistics import FEW, Arms, reliability


def plot_temperatures(logits: np.ndarray, classes: Sequence[str], temperatures=(0.5, 1, 2, 4, 8, np.inf)) -> Figure:
    """softmax(z / T) of one image's logits [classes], a panel for each temperature; at infinity all classes are equal.

    If there are many classes, only the likeliest are shown.
    """
    logits = np.asarray(logits, dtype=float)
    shown = np.sort(np.argsort(-logits, kind="stable")[:FEW])
    size, classes = (1.2 * len(temperatures) + 1, 0.2 * len(shown) + 1.2), [classes[index] for index in shown]
    figure, axes = plt.subplots(1, len(temperatures), figsize=size, sharey=True)
    for axis, temperature in zip(axes, temperatures, strict=True):
        axis.barh(range(len(shown)), softmax(logits / temperature)[shown], color=COLOURS[0])
        axis.set(title=f"T = {temperature:g}".replace("inf", "∞"), xlim=(0, 1), xticks=(0, 0.5, 1))
        axis.set_xticklabels(("0", "½", "1"))
    axes[0].set(yticks=range(len(classes)), yticklabels=classes)
    axes[0].invert_yaxis()
    figure.supxlabel("probability", size=9)
    return figure


def plot_gradients(teacher: np.ndarray, student: np.ndarray, label: int) -> Figure:
    """Lengths, by temperature, of the gradients of KL, T² KL and CE with respect to the student's logits [classes].

    The gradient of KL(p_T || q_T) is (q_T - p_T) / T, that of the cross-entropy is q - onehot(label).
    """
    temperatures = np.geomspace(0.5, 64, 100)[:, None]
    gradient = (softmax(student / temperatures, 1) - softmax(teacher / temperatures, 1)) / temperatures
    length = np.linalg.norm(gradient, axis=1)
    figure, axis = plt.subplots(figsize=(6.4, 3))
    for index, (curve, name) in enumerate(((length, "KL alone"), (temperatures[:, 0] ** 2 * length, "T² KL"))):
        axis.plot(temperatures, curve, **_style(index) | {"marker": ""}, label=name)
    hard = softmax(student) - np.eye(len(student))[label]
    axis.axhline(np.linalg.norm(hard), color="black", linestyle="dotted", label="cross-entropy, which has no T")
    axis.set(xscale="log", yscale="log", xlabel="temperature", ylabel="length of the gradient")
    axis.set_xticks((0.5, 1, 2, 4, 8, 16, 32, 64), ("0.5", "1", "2", "4", "8", "16", "32", "64"))
    axis.minorticks_off()
    axis.legend()
    return figure


def plot_means(teachers: torch.Tensor, names: Sequence[str], classes: Sequence[str]) -> Figure:
    """Teachers' probabilities for one image (logits [teachers, 1, classes]), their geometric and arithmetic means.

    Left: every class at temperature 1; right: the first class as the temperature rises.
    """
    temperatures, answers = np.geomspace(1, 16, 50), []
    for temperature in temperatures:
        means = [teacher_log_probabilities(teachers, temperature, how).exp() for how in ("logits", "probabilities")]
        answers.append(torch.cat([*(teachers / temperature).softmax(2), *means]))
    answers, labels = torch.stack(answers).numpy(), (*names, "geometric mean", "arithmetic mean")
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(7.6, 2.8), sharey=True)
    plot_bars(bars, dict(zip(labels, answers[0], strict=True)))
    for index in range(len(labels)):
        curves.plot(temperatures, answers[:, index, 0], **_style(index) | {"marker": ""})
    bars.set(ylabel="probability", ylim=(0, 1), xticks=range(len(classes)), xticklabels=classes, title="T = 1")
    curves.set(xscale="log", xlabel="temperature", title=f"probability of {classes[0]}")
    curves.set_xticks((1, 2, 4, 8, 16), ("1", "2", "4", "8", "16"))
    curves.minorticks_off()
    both = list(zip(bars.containers, curves.lines, strict=True))
    handler = {tuple: HandlerTuple(ndivide=None)}  # bar and line side by side
    look = {"handler_map": handler, "handlelength": 4, "ncols": len(labels), "frameon": False}
    figure.legend(both, labels, loc="outside lower center", **look)
    return figure


def plot_setup() -> Figure:
    """A diagram of teacher, table and student: what is passed between them, and how often."""
    figure, axis = plt.subplots(figsize=(7.2, 2.8))
    places = {"image, in\none view": (0.08, 0.5), "teacher\n(frozen)": (0.33, 0.85), "student\n(learns)": (0.33, 0.15)}
    places |= {"table of logits,\nimages × 162 views": (0.66, 0.85), "label": (0.66, 0.5), "loss": (0.92, 0.15)}
    box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "black"}
    boxes = [axis.text(*place, text, ha="center", va="center", bbox=box) for text, place in places.items()]
    image, teacher, student, table, label, loss = boxes
    arrows = {(image, teacher): "", (image, student): "", (teacher, table): "once", (label, loss): ""}
    arrows |= {(table, loss): "soft target", (student, loss): "logits, every epoch"}
    figure.draw_without_rendering()  # gives the boxes their size: arrows end at their edges
    for (start, end), text in arrows.items():
        ends = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch(), "shrinkA": 2, "shrinkB": 2}
        (x, y), (to_x, to_y) = start.get_position(), end.get_position()
        arrow = {"arrowstyle": "-|>", "color": "black", "mutation_scale": 12}
        axis.annotate("", (to_x, to_y), (x, y), arrowprops=arrow | ends)
        axis.text((x + to_x) / 2 + 0.02, (y + to_y) / 2 + 0.05, text, ha="center" if y == to_y else "left", size=8)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.axis("off")
    return figure


def plot_signs(weights: np.ndarray) -> Figure:
    """Latent weights [N] of a layer as a histogram, and what binarising leaves: signs and one scale, the mean |w|."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.6), sharex=True)
    scale = np.abs(weights).mean()
    axes[0].hist(weights, bins=61, color=COLOURS[0], linewidth=0)
    axes[0].set(title="latent weights", ylabel="weights", xlabel="value")
    counts = [(weights < 0).sum(), (weights >= 0).sum()]
    axes[1].bar([-scale, scale], counts, width=0.15 * scale, color=COLOURS[1])
    axes[1].set(title="their signs, times one scale", xlabel="value")
    return figure


def plot_reliability(arms: Arms) -> Figure:
    """Accuracy by confidence in 15 bins, all seeds of an arm together; marker areas show shares of the images.

    On the diagonal, the confidence equals the accuracy; below the diagonal, a network is overconfident.
    """
    size = (min(2.6 * len(arms) + 0.6, WIDEST), 3)
    figure, axes = plt.subplots(1, len(arms), figsize=size, sharey=True, squeeze=False)
    for index, (axis, (name, records)) in enumerate(zip(axes[0], arms.items(), strict=True)):
        confidence, accuracy, share = reliability(records)
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="dotted")
        axis.plot(confidence, accuracy, **_style(index) | {"marker": ""})
        axis.scatter(confidence, accuracy, 10 + 300 * share, color=COLOURS[index % len(COLOURS)], alpha=0.7)
        title = textwrap.fill(_named(name, records), 34 if len(arms) < 4 else 18)
        axis.set(title=title, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
    axes[0, 0].set_ylabel("accuracy")
    return figure
