"""Compares methods of distillation: how they move a student's logits, their trials, their gains, and other claims.

`tried` has, by the title of each method, its runs of the first seed, one for each cell (`Methods.tried`); `arms` has
the runs of all seeds in the chosen cells (`Methods.students`), including "KD" and "KD, untuned".
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from kdutils.data.datasets import Dataset
from kdutils.distillation.losses import agreement_weights, confidence_weights, entropy_weights, teacher_gradients
from kdutils.distillation.methods import Method, build_method, method_loss
from kdutils.report.plots import COLOURS, MARKERS, WIDEST
from kdutils.report.results import describe_arms, describe_gains
from kdutils.report.statistics import BY_CHANCE, Arms, Gain, best_cell, count, finished, gain, spread, values
from kdutils.report.tables import carrying, published
from kdutils.runs.records import Record
from kdutils.studies.methods import title

_BATCH, _CLASSES = 64, 7  # how many images' loss is differentiated, how many classes are shown
_SHORT = {"temperature": "T", "ce_weight": "CE", "kd_weight": "weight", "warmup": "warm-up"}


class Examples:
    """Two test images with a teacher's and a student's logits: one that the teacher gets right, one that it does not.

    They have the likeliest runner-up of all right ones, and the likeliest label of all wrong ones; others fill a batch.
    `teacher` and `student`: logits, float32 [B, classes]; `labels`: int64 [B]; `images`: indices [B] into the test set;
    the first `shown` of the batch are the two, or the only one there is.
    """

    def __init__(self, teacher: Record, student: Record):
        (theirs, labels), (ours, _) = teacher.predictions, student.predictions
        count = min(len(theirs), len(ours))
        z, labels = torch.from_numpy(theirs[:count]), torch.from_numpy(labels[:count].astype(np.int64))
        p, places = z.softmax(1), torch.arange(count)
        right, label = z.argmax(1) == labels, p[places, labels]
        scores = (torch.where(right, p.topk(2).values[:, 1], -1.0), torch.where(right, -1.0, label))
        best = [int(score.argmax()) for score in scores if score.max() >= 0]
        others = [place for place in range(min(count, _BATCH)) if place not in best]
        self.images, self.shown = torch.tensor(best + others), len(best)
        self.teacher, self.labels = z[self.images], labels[self.images]
        self.student = torch.from_numpy(ours[:count])[self.images]

    def push(self, method: Method) -> torch.Tensor:
        """The direction in which the method's whole loss, after its warm-up, moves the student's logits: [B, classes].

        This is the negative gradient, scaled so that its absolute values sum to 1 for each image.
        """
        student = self.student.clone().requires_grad_()
        loss, _ = method_loss(method, student, self.teacher, self.labels, epoch=method.warmup)
        (gradient,) = torch.autograd.grad(loss, student)
        return -gradient / gradient.abs().sum(1, keepdim=True).clamp_min(1e-30)


def plot_pushes(
    examples: Examples, dataset: Dataset, targets: dict[str, torch.Tensor], methods: list[Method]
) -> Figure:
    """What methods make of a teacher's answer: a column for each shown image, targets above and pushes below.

    targets: probabilities [B, classes] by name. Pushes: `Examples.push`, in percent, of cross-entropy alone and of each
    method. The classes are the label and those that the teacher finds likeliest; the others are summed.
    """
    alone = build_method("kd", kd_weight=0.0)
    rows = {"CE alone": examples.push(alone)} | {title(method.name): examples.push(method) for method in methods}
    size = (min(5.2 * examples.shown, WIDEST), 3.0 + 0.34 * len(rows))
    grid = dict(height_ratios=(2, 0.22 * len(rows)), squeeze=False, sharex="col")
    figure, axes = plt.subplots(2, examples.shown, figsize=size, **grid)
    for image, (points, heat) in enumerate(axes.T):
        label = int(examples.labels[image])
        order = [label, *(k for k in examples.teacher[image].argsort(descending=True).tolist() if k != label)]
        shown, rest = order[:_CLASSES], order[_CLASSES:]
        names = [dataset.classes[k].replace("_", " ") for k in shown] + [f"{len(rest)} others"] * bool(rest)
        offsets, places = np.linspace(0.15, 0.85, len(targets)), np.arange(len(names))
        for index, (name, target) in enumerate(targets.items()):
            look = dict(marker=MARKERS[index], color=COLOURS[index], linestyle="", markersize=4, label=name)
            points.plot(places + offsets[index], _gathered(target[image], shown, rest), **look)
        points.set(ylabel="probability", yscale="log", ylim=(5e-4, 1.3))
        verdict = "right" if examples.teacher[image].argmax() == label else "wrong"
        points.set_title(f"{names[0]}: the teacher is {verdict}")
        table = [_gathered(100 * push[image], shown, rest) for push in rows.values()]
        look = dict(cmap="PuOr", vmin=-50, vmax=50, cbar=False, annot=True, fmt="+.0f", annot_kws={"size": 7})
        sns.heatmap(table, ax=heat, xticklabels=names, yticklabels=list(rows) if image == 0 else False, **look)
        heat.set_xticklabels(names, rotation=35, ha="right")
        heat.tick_params(axis="y", rotation=0)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _gathered(row: torch.Tensor, shown: list[int], rest: list[int]) -> list[float]:
    return [float(row[k]) for k in shown] + [float(row[rest].sum())] * bool(rest)


def describe(method: Method) -> str:
    """The parameters of a method in short: "T 4, CE 0.1, weight 0.9"."""
    shown = {
        name: value for name, value in method if name not in ("name", "average") and (name, value) != ("warmup", 1)
    }
    shown = {name: ", ".join(f"{each:g}" for each in np.atleast_1d(value)) for name, value in shown.items()}
    return ", ".join(f"{_SHORT.get(name, name.replace('_', ' '))} {value}" for name, value in shown.items())


def choose(tried: Arms) -> dict[str, Method]:
    """The best cell of each method on the validation images (`best_cell`), without methods whose runs all diverged.

    Raises `InputError` if all runs of KD diverged.
    """
    return {name: best_cell(records) for name, records in tried.items() if name == "KD" or finished(records)}


def trials_table(tried: Arms) -> pd.DataFrame:
    """A row for each trial: its method, cell, validation accuracy (%) or "diverged", and whether it was chosen."""
    chosen, rows = choose(tried), []
    for name, records in tried.items():
        for record in records:
            cell = record.spec.distillation.method
            shown = "diverged" if record.diverged else f"{record.metric('val'):.2f}"
            rows.append((name, describe(cell), shown, "yes" if cell == chosen.get(name) else ""))
    return pd.DataFrame(rows, columns=["method", "cell", "validation (%)", "chosen"])


def gains_over(arms: Arms, control: str) -> dict[str, Gain]:
    """The paired gain of every other arm over `control`, by name, except the student alone, which is no method."""
    others = (name for name in arms if name not in (control, "student alone"))
    return {name: gain(arms[name], arms[control], (name, control)) for name in others}


def methods_table(arms: Arms) -> pd.DataFrame:
    """A row for each arm: test accuracy (%), gains (points) over KD untuned and tuned, run time (s); as published."""
    known = {row.arm: row.value for row in published("methods").query("metric == 'accuracy'").itertuples()}
    untuned, tuned, rows = gains_over(arms, "KD, untuned"), gains_over(arms, "KD"), []
    for name, records in arms.items():
        before, after, theirs = untuned.get(name), tuned.get(name), known.get(name)
        gains = [_points(each) if each else "–" for each in (before, after)]
        interval = f"[{after.low:+.2f}, {after.high:+.2f}]" if after and after.n > 1 else "–"
        seconds = spread((record.summary["seconds"] for record in finished(records)), 1)
        gained = f"{theirs - known['KD, untuned']:+.2f}" if theirs and name != "KD, untuned" else "–"
        row = (count(records), spread(values(records, "test")), *gains, interval, seconds)
        rows.append((name, *row, f"{theirs:.2f}" if theirs else "–", gained))
    titles = ["method", "n", "test (%)", "over KD, untuned", "over KD", "95% CI", "one run (s)"]
    table = pd.DataFrame(rows, columns=[*titles, "published (%)", "over KD, untuned, published"])
    first = gains_over(arms, "student alone")["KD, untuned"]
    return carrying(table, arms=describe_arms(arms), gains=describe_gains([first, *tuned.values()]))


def _points(gain: Gain) -> str:
    return f"{gain.mean:+.2f}" if gain.n else "diverged"


def verdict_sentence(gains: dict[str, Gain]) -> str:
    """Which methods are better than KD, which worse, and which cannot be told apart from it."""
    if not gains:
        return "Only KD was tried: there is no other method to compare it with."
    found = {"better than": [], "worse than": [], "that cannot be told apart from": []}
    for name, each in gains.items():
        verdict = ("that cannot be told apart from", "better than", "worse than")[each.told]
        found[verdict].append(f"{name} ({_points(each)})")
    said = [f"Methods {verdict} KD: {', '.join(names) or 'none'}." for verdict, names in found.items()]
    return " ".join([*said, BY_CHANCE])


def tuning_sentence(arms: Arms) -> str:
    """Sentences: what KD gains over the student alone, and how tuning it changes the advantage of the other methods."""
    untuned, tuned = gains_over(arms, "KD, untuned"), gains_over(arms, "KD")
    others = [name for name in untuned if name != "KD"]
    chosen = {name: arms[name][0].spec.distillation.method for name in ("KD", "KD, untuned")}
    first = gains_over(arms, "student alone")["KD, untuned"]
    said = f"Untuned, KD changes the student alone by {first.interval}. "
    if chosen["KD"] == chosen["KD, untuned"]:
        said += "The validation images chose the usual cell for KD: untuned and tuned, it is the same."
    else:
        said += f"Tuned, KD changes by {untuned['KD'].interval}"
        said += "." if untuned["KD"].told else ", which cannot be told from zero."
    if not others:
        return said
    for control, gains in {"untuned KD": untuned, "KD with as many trials as they had": tuned}.items():
        known = [gains[name] for name in others if gains[name].n]
        if known:
            mean, above = np.mean([each.mean for each in known]), sum(each.told > 0 for each in known)
            said += f" Compared with {control}, other methods gain {mean:+.2f} points on average; "
            said += f"the interval lies above zero for {above} of {len(known)}."
    return said


def claims_table(tried: Arms, arms: Arms) -> pd.DataFrame:
    """The test accuracies (%) that the same runs would claim at their best test epoch, or if tuned on the test images.

    Over all seeds: last and best epoch. For the first seed: the cell by validation, by test, by test with its epoch.
    """
    rows = []
    for name, cell in choose(tried).items():
        last, best = values(arms[name], "test"), [_best(record) for record in finished(arms[name])]
        if not last:  # every seed of the chosen cell diverged
            continue
        runs = finished(tried[name])
        (kept,) = (record.metric("test") for record in runs if record.spec.distillation.method == cell)
        by_test = max(values(runs, "test")), max(map(_best, runs))
        rows.append((name, np.mean(last), np.mean(best), np.mean(best) - np.mean(last), kept, *by_test))
    titles = ["method", "last epoch", "best test epoch", "difference", "first seed, cell by validation"]
    return pd.DataFrame(rows, columns=[*titles, "cell by test", "cell and epoch by test"])


def _best(record: Record) -> float:
    return float(record.history["test_accuracy"].max())


def claims_sentence(claims: pd.DataFrame, gains: dict[str, Gain]) -> str:
    """Sentences: how much such claims add (points), beside the largest mean gain over KD."""
    epoch, kept = claims["difference"], claims["first seed, cell by validation"]
    cell, both = (claims[by] - kept for by in ("cell by test", "cell and epoch by test"))
    theirs = published("methods").query("metric == 'best epoch over last'").iloc[0]
    said = (
        f"Reporting the best test epoch adds {epoch.mean():.2f} points on average ({epoch.min():.2f} to "
        f"{epoch.max():.2f}); in {theirs.remark} it adds {theirs.value:g}. Choosing the cell by the test images adds "
        f"{cell.mean():.2f}, cell and epoch {both.mean():.2f} (up to {both.max():.2f})."
    )
    if np.allclose(epoch, 0):
        said += " Here the last epoch was the best one in every run: these runs do not show what such a choice can add."
    means = {name: each.mean for name, each in gains.items() if np.isfinite(each.mean) and name != "KD, untuned"}
    if not means:
        return said
    largest = max(means, key=means.get)
    return f"{said} The largest mean gain over KD is {means[largest]:+.2f} ({largest})."


def weights_table(teachers: Arms, student: Record, temperature: float, batch: int = 32) -> pd.DataFrame:
    """How much each teacher counts (share of 1) on the test images, under the methods that weigh teachers.

    Columns: how they are weighed; each teacher's mean weight; % of images (or batches) in which the last teacher counts
    more than any other. AEKD's weights are those that it gives to a batch at the student's answers.
    """
    runs = [records[0].predictions for records in teachers.values()]
    n = min(len(logits) for logits, _ in (*runs, student.predictions))
    z, labels = torch.from_numpy(np.stack([logits[:n] for logits, _ in runs])), torch.from_numpy(runs[0][1][:n]).long()
    ours, C = torch.from_numpy(student.predictions[0][:n]), build_method("mt_aekd").C
    batches = zip(ours.split(batch), z.split(batch, 1), strict=True)
    agreed = [agreement_weights(teacher_gradients(*each, temperature), C) for each in batches]
    found = {"entropy (EB-KD), image by image": entropy_weights(z)}
    found |= {"error (CA-MKD), image by image": confidence_weights(z, labels)}
    found |= {f"agreement (AEKD), in batches of {batch}": torch.stack(agreed, 1)}
    rows = []
    for how, weights in found.items():
        weights = weights / weights.sum(0)
        more = (weights[-1] > weights[:-1].amax(0)).double().mean()
        rows.append((how, *(f"{each:.3f}" for each in weights.mean(1)), f"{100 * more:.1f}"))
    return pd.DataFrame(rows, columns=["weighed by", *teachers, f"{[*teachers][-1]} counts more (%)"])
