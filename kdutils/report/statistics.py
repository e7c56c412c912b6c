"""Numbers with their spread: means, paired gains and what they are conditional on, agreement, calibration.

An arm is a name with its records, one for each seed: `arms = {"small CNN": [record, ...], ...}`. A run that diverged
has no number: it is counted beside the mean, never averaged.
"""

import json
from collections.abc import Iterable
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from scipy.special import softmax, stdtrit
from torch import nn

from kdutils.distillation.methods import Method
from kdutils.errors import InputError
from kdutils.networks.binary import binary_layers
from kdutils.runs.records import Record
from kdutils.values import Value

Arms = dict[str, list[Record]]
FEW = 20  # classes that are shown one by one
FLAT = 1e-6  # percentage points: differences with a smaller spread count as equal
BY_CHANCE = "Each interval holds by itself: about one in twenty misses by chance."


def finished(records: Iterable[Record]) -> list[Record]:
    """The runs that did not diverge."""
    return [record for record in records if not record.diverged]


def with_diverged(text: int | str, diverged: int) -> int | str:
    """`text`, such as a number of runs, with the number of runs that diverged added, if any did."""
    return f"{text}, {diverged} diverged" if diverged else text


def count(records: list[Record]) -> int | str:
    """The n of a mean: how many runs did not diverge, and how many did."""
    return with_diverged(len(finished(records)), len(records) - len(finished(records)))


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean ± sample SD (ddof 1) of values [n], to be shown beside n; one value has no SD; "diverged" if there is none.

    Values that are not finite (of runs that diverged) are left out, and counted: "58.30 ± 0.40, 1 diverged".
    """
    values = np.array(list(values), dtype=float)
    kept = values[np.isfinite(values)]
    if not len(kept):
        return "diverged"
    deviation = f" ± {kept.std(ddof=1):,.{digits}f}" if len(kept) > 1 else ""
    return with_diverged(f"{kept.mean():,.{digits}f}{deviation}", len(values) - len(kept))


def values(records: list[Record], split: str, metric: str = "accuracy") -> list[float]:
    """Accuracy (%) or loss (nats) of the runs that did not diverge, on split train, val or test after the last epoch,
    or "best val": validation after its best epoch."""
    if split == "best val":
        return [record.summary["best_val"][metric] for record in finished(records)]
    return [record.metric(split, metric) for record in finished(records)]


def conditions(arms: Arms) -> str:
    """What ± over these runs is conditional on, for a caption: "over seeds that share their views (and one teacher)".

    What holds for only some of the arms is in parentheses.
    """
    several = [[record.spec for record in records] for records in arms.values() if len(records) > 1]
    if not several:
        return "over seeds (only one here)"
    taught = [specs[0] for specs in several if specs[0].teachers and len({spec.teachers for spec in specs}) == 1]
    who = "one teacher" + " each" * (len({spec.teachers for spec in taught}) > 1)
    who = who if all(len(spec.teachers) == 1 for spec in taught) else "their teachers"
    shared = ["their views"] * (several[0][0].data.views > 1) + [who] * (len(taught) == len(several))
    some = f" (and {who})" if 0 < len(taught) < len(several) else ""
    return "over seeds" + (f" that share {' and '.join(shared)}" if shared else "") + some


Known = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(lambda value: np.nan if value is None else value)]
"""A number, or NaN if there is none; in JSON, NaN is null."""


class Numbers(Value):
    """One quantity over several seeds: the value of each, their mean and sample SD; a part of `results.json`."""

    values: dict[str, float | None]  # by seed; None: its run diverged
    n: int  # values that are not None
    diverged: int
    mean: Known
    sd: Known
    published: dict[str, float] = {}  # by study, as in reports/published.csv

    @classmethod
    def of(cls, by_seed: dict[int, float], **fields) -> Self:
        """Makes the numbers from values by seed, which are NaN if the run diverged."""
        values = {str(seed): float(value) if np.isfinite(value) else None for seed, value in by_seed.items()}
        kept = [value for value in values.values() if value is not None]
        mean = float(np.mean(kept)) if kept else np.nan
        sd = float(np.std(kept, ddof=1)) if len(kept) > 1 else np.nan
        return cls(values=values, n=len(kept), diverged=len(values) - len(kept), mean=mean, sd=sd, **fields)

    @property
    def kept(self) -> list[float]:
        """The values of the runs that did not diverge."""
        return [value for value in self.values.values() if value is not None]

    @property
    def bounds(self) -> tuple[float, float]:
        """The 95% confidence interval of the mean (Student's t, n - 1 degrees of freedom); NaN below two values."""
        half = float(stdtrit(self.n - 1, 0.975)) * self.sd / self.n**0.5 if self.n > 1 else np.nan
        return self.mean - half, self.mean + half

    def plain(self) -> dict:
        """The fields as plain JSON values, without those that have their default."""
        return json.loads(self.model_dump_json(exclude_defaults=True))


class Gain(Numbers):
    """The paired difference of test accuracies (percentage points) between two arms, seed by seed; n counts pairs."""

    treated: str
    control: str
    low: Known  # the bounds of the 95% confidence interval
    high: Known
    over: str  # what the interval is conditional on

    @property
    def interval(self) -> str:
        """The mean with its 95% confidence interval (Student's t, n - 1 degrees of freedom) and its condition."""
        if self.n < 2:
            mean = f"{self.mean:+.2f} points" if self.n else "an unknown amount"
            return f"{mean} ({with_diverged('one pair' if self.n else 'no pair', self.diverged)}: no interval)"
        n = with_diverged(f"n={self.n}", self.diverged)
        return f"{self.mean:+.2f} points, 95% CI [{self.low:+.2f}, {self.high:+.2f}] {self.over}, {n}"

    @property
    def told(self) -> int:
        """1 if the whole interval lies above zero, -1 if it lies below, else 0.

        An interval without width gives 0, because a few pairs may differ equally by chance.
        """
        return 0 if self.n < 2 or self.sd < FLAT else int(self.low > 0) - int(self.high < 0)

    @property
    def short(self) -> str:
        """As `interval`, without its condition: "+3.90 points [+2.10, +5.70], n=3"."""
        n = with_diverged(f"n={self.n}", self.diverged)
        return f"{self.mean:+.2f} points [{self.low:+.2f}, {self.high:+.2f}], {n}" if self.n > 1 else self.interval

    @property
    def answer(self) -> str:
        """Whether this is a gain, in a line: "Yes: +3.90 points [+2.10, +5.70], n=3"."""
        return f"{('It cannot be told', 'Yes', 'No, a loss')[self.told]}: {self.short}"

    @property
    def sentence(self) -> str:
        """The gain with its interval, and what follows from it, including "no gain"."""
        verdict = "These runs cannot tell this from zero: the interval contains zero."
        if self.n < 2:
            verdict = "Nothing follows from fewer than two pairs."
        elif self.sd < FLAT < abs(self.mean):
            verdict = "Nothing follows from pairs that differ by the same: their interval has no width."
        elif self.told > 0:
            verdict = "That is a gain: the interval lies above zero."
        elif self.told < 0:
            verdict = "That is a loss: the interval lies below zero."
        return f"Compared with {self.control}, {self.treated} changes test accuracy by {self.interval}. {verdict}"


def apart(first: Gain, second: Gain) -> str:
    """Whether two gains differ, in a sentence: their paired difference, seed by seed, with its interval.

    Raises `InputError` unless both have the same seeds.
    """
    if first.values.keys() != second.values.keys():
        seeds = " and ".join(", ".join(each.values) for each in (first, second))
        raise InputError(f"gains of equal seeds are compared, got {seeds}")
    pairs = {int(seed): (value, second.values[seed]) for seed, value in first.values.items()}
    by_seed = {seed: np.nan if None in pair else pair[0] - pair[1] for seed, pair in pairs.items()}
    low, high = Numbers.of(by_seed).bounds
    between = Gain.of(by_seed, treated=first.treated, control=second.treated, low=low, high=high, over=first.over)
    verdict = "The two gains differ." if between.told else "These runs cannot tell the two gains apart."
    return f"The gain of {first.treated} minus that of {second.treated} is {between.interval}. {verdict}"


def gain(treated: list[Record], control: list[Record], names: tuple[str, str]) -> Gain:
    """The paired gain of `treated` over `control`: runs of equal seeds share their data, order and views.

    A pair with a run that diverged is left out and counted. Raises `InputError` unless both have the same seeds.
    """
    ours, theirs = (sorted(records, key=lambda record: record.spec.seed) for records in (treated, control))
    seeds, others = ([record.spec.seed for record in records] for records in (ours, theirs))
    if seeds != others or len(set(seeds)) < len(seeds):
        raise InputError(f"a paired difference needs equal seeds, each once, got {seeds} and {others}")
    pairs = {one.spec.seed: values([one, other], "test") for one, other in zip(ours, theirs, strict=True)}
    by_seed = {seed: pair[0] - pair[1] if len(pair) == 2 else float("nan") for seed, pair in pairs.items()}
    low, high = Numbers.of(by_seed).bounds
    over = conditions({"treated": treated, "control": control})
    return Gain.of(by_seed, treated=names[0], control=names[1], low=low, high=high, over=over)


def best_cell(records: list[Record]) -> Method:
    """The method of the distilled run with the best validation accuracy after its last epoch.

    Ties go to the lower validation loss, then to the first of `records`. Raises `InputError` if no such run is left.
    """
    runs = [record for record in finished(records) if record.spec.distillation]
    if not runs:
        raise InputError("no cell can be chosen: every taught run, if any, diverged; try a smaller learning rate")
    best = max(runs, key=lambda record: (record.metric("val"), -record.metric("val", "loss")))
    return best.spec.distillation.method


def standard_error(records: list[Record]) -> float:
    """Binomial standard error (percentage points) of one run's validation accuracy, at the mean of these runs.

    If all images or none are right, it is computed for all but one, or one, because it would be zero otherwise.
    """
    images = records[0].spec.data.val_size
    share = np.clip(np.mean(values(records, "val")) / 100, 1 / images, 1 - 1 / images)
    return 100 * float(np.sqrt(share * (1 - share) / images))


def confusion_counts(records: list[Record]) -> np.ndarray:
    """Numbers of test images of a true class (rows) that were predicted as a class (columns), int64 [classes, classes];
    all runs that did not diverge are added up."""
    predictions = [record.predictions for record in finished(records)]
    counts = np.zeros((predictions[0][0].shape[1],) * 2, dtype=np.int64)
    for logits, labels in predictions:
        np.add.at(counts, (labels, logits.argmax(1)), 1)
    return counts


def confusion(records: list[Record]) -> np.ndarray:
    """Share (%) of a true class (rows) predicted as a class (columns), [classes, classes]; all runs together."""
    counts = confusion_counts(records)
    return 100 * counts / counts.sum(1, keepdims=True).clip(1)


def telling_images(record: Record, count: int = 4) -> np.ndarray:
    """Indices (int64) of at most `count` correctly classified test images of different classes, the most telling first.

    Their probabilities fall in two clear steps, to the runner-up (by a sixth or more) and from it to the third (by
    half); the smaller step decides. If no image has such steps, any steps count.
    """
    logits, labels = record.predictions
    ranked = np.sort(softmax(logits.astype(float), axis=1), axis=1)[:, ::-1]
    top, second, third = np.pad(ranked, ((0, 0), (0, 1)))[:, :3].T  # of two classes, the third has 0
    step = np.where(logits.argmax(1) == labels, np.minimum(top - second, second - third), 0)
    clear = step * ((top >= 1.2 * second) & (second >= 2 * third))
    score = clear if clear.any() else step
    order = np.argsort(-score, kind="stable")[: np.count_nonzero(score > 0)]
    return order[np.sort(np.unique(labels[order], return_index=True)[1])][:count]


def lead(first: list[Record], second: list[Record]) -> float:
    """Mean accuracy of `first` minus that of `second`, in points, on the test images that all saw (the first ones);
    NaN if all runs of one diverged."""
    predictions = [[record.predictions for record in finished(records)] for records in (first, second)]
    seen = min((len(labels) for runs in predictions for _, labels in runs), default=0)
    right = [[(logits[:seen].argmax(1) == labels[:seen]).mean() for logits, labels in runs] for runs in predictions]
    return 100 * float(np.mean(right[0]) - np.mean(right[1])) if all(right) else float("nan")


def agreement(first: Record, second: Record) -> float:
    """Share (%) of the test images that both runs saw (the first ones) to which they give the same class; NaN if one
    diverged."""
    ours, theirs = (record.predictions[0].argmax(1) for record in (first, second))
    both = min(len(ours), len(theirs))
    same = 100 * float((ours[:both] == theirs[:both]).mean())
    return same if len(finished([first, second])) == 2 else float("nan")


def reliability(records: list[Record]) -> np.ndarray:
    """Mean confidence, accuracy and share of the images in each of 15 bins of equal width, for all test images of all
    runs that did not diverge; float [3, bins], without empty bins."""
    pooled = [np.empty((2, 0))]
    for logits, labels in (record.predictions for record in finished(records)):
        pooled.append((softmax(logits, axis=1).max(1), logits.argmax(1) == labels))
    confidence, right = np.concatenate(pooled, axis=1)
    sums = [np.histogram(confidence, 15, (0, 1), weights=each)[0] for each in (confidence, right, None)]
    confidence, right, count = np.stack(sums)[:, sums[-1] > 0]
    return np.array([confidence / count, right / count, count / count.sum()])


def calibration_error(record: Record) -> float:
    """Expected calibration error (%) on the test images: |confidence - accuracy| averaged over equal-width bins.

    Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), eq. 3.
    """
    confidence, accuracy, share = reliability([record])
    return 100 * float((share * np.abs(confidence - accuracy)).sum())


def clipped_share(model: nn.Module) -> float:
    """Share (%) of a binary network's latent weights to which its clipped estimator gives no gradient: |w X| > 1 in
    mode "bonn", else |X| > 1; NaN if the network diverged."""
    scaled = [layer.weight * (layer.modulation if layer.mode == "bonn" else 1) for _, layer in binary_layers(model)]
    weights = torch.cat([weight.detach().flatten() for weight in scaled])
    return 100 * float((weights.abs() > 1).double().mean()) if weights.isfinite().all() else float("nan")
