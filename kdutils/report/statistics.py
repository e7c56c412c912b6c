"""Numbers with their spread: means, paired gains, agreement, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from torch import nn

from kdutils.distillation.methods import KD
from kdutils.errors import InputError
from kdutils.networks.binary import binary_layers
from kdutils.runs.records import Record

Arms = dict[str, list[Record]]


def spread(values, digits: int = 2) -> str:
    """Mean ± sample SD of values [n]; a single value stands alone. Its n belongs beside it."""
    values = np.asarray(values, dtype=float)
    deviation = f" ± {values.std(ddof=1):,.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():,.{digits}f}{deviation}"


def value(record: Record, split: str, metric: str) -> float:
    """A record's loss or accuracy on split train, val, test (last epoch) or "best val" (best epoch on validation)."""
    return record.summary["best_val"][metric] if split == "best val" else record.metric(split, metric)


def clipped_share(model: nn.Module) -> float:
    """Share (%) of a binary network's latent weights that its clipped estimator gives no gradient: |w X| > 1, in
    mode "bonn", else |X| > 1."""
    layers = [layer for _, layer in binary_layers(model)]
    beyond = [((layer.modulation if layer.mode == "bonn" else 1.0) * layer.weight).abs() > 1 for layer in layers]
    return 100 * sum(int(mask.sum()) for mask in beyond) / sum(mask.numel() for mask in beyond)


@dataclass(frozen=True)
class Gain:
    """The paired difference of test accuracies (percentage points) between two arms, seed by seed."""

    treated: str
    control: str
    mean: float
    deviation: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> str:
        """The mean with its 95% confidence interval (Student's t, n - 1 degrees of freedom)."""
        if self.n < 2:
            return f"{self.mean:+.2f} points (one pair: no interval)"
        return f"{self.mean:+.2f} points, 95% CI [{self.low:+.2f}, {self.high:+.2f}], n={self.n}"

    @property
    def sentence(self) -> str:
        """What the numbers allow to be said, "no gain" included."""
        if self.n < 2:
            return f"With one pair of runs, {self.treated} differs from {self.control} by {self.interval}: nothing follows from a single pair."
        if self.low > 0:
            verdict = "a gain: the interval lies above zero"
        elif self.high < 0:
            verdict = "a loss: the interval lies below zero"
        else:
            verdict = "no gain that these runs could tell from zero: the interval holds zero"
        return f"Against {self.control}, {self.treated} changes test accuracy by {self.interval}. That is {verdict}."


def gain(treated: list[Record], control: list[Record], names: tuple[str, str]) -> Gain:
    """The paired gain of `treated` over `control`: runs of equal seeds share their data, order and views.

    Raises `InputError` unless both have the same seeds.
    """
    ours, theirs = ({r.spec.seed: r.metric("test") for r in records} for records in (treated, control))
    if ours.keys() != theirs.keys():
        raise InputError(f"a paired difference needs equal seeds, got {sorted(ours)} and {sorted(theirs)}")
    differences = np.array([ours[seed] - theirs[seed] for seed in sorted(ours)])
    n, mean = len(differences), float(differences.mean())
    deviation = float(differences.std(ddof=1)) if n > 1 else float("nan")
    half = stats.t.ppf(0.975, n - 1) * deviation / np.sqrt(n) if n > 1 else float("nan")
    return Gain(*names, mean, deviation, mean - half, mean + half, n)


def best_cell(records: list[Record]) -> KD:
    """The method of the taught run with the best validation accuracy after its last epoch, ties by the lower loss."""
    taught = [record for record in records if record.spec.distillation]
    best = max(taught, key=lambda record: (record.metric("val"), -record.metric("val", "loss")))
    return best.spec.distillation.method


def conditions(arms: Arms) -> str:
    """What a spread or an interval over these runs is conditional on, for captions."""
    taught = [record for records in arms.values() for record in records if record.spec.distillation]
    return "over seeds that share their views" + (" and their teachers" if taught else "")


def confusion(record: Record) -> np.ndarray:
    """Share (%) of the images of a true class (rows) that were given a class (columns), [classes, classes]."""
    logits, labels = record.predictions
    counts = np.zeros((logits.shape[1],) * 2)
    np.add.at(counts, (labels, logits.argmax(1)), 1)
    return 100 * counts / counts.sum(1, keepdims=True).clip(1)


def standard_error(records: list[Record]) -> float:
    """Binomial standard error (percentage points) of one run's validation accuracy, at the mean of these runs."""
    share = np.mean([record.metric("val") for record in records]) / 100
    return 100 * float(np.sqrt(share * (1 - share) / records[0].spec.data.val_size))


def telling_images(record: Record, count: int = 4) -> np.ndarray:
    """Test images [count], of different classes, that the run classifies rightly but with the highest entropy."""
    logits, labels = record.predictions
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    entropy = -(probabilities * np.log(probabilities.clip(1e-12))).sum(1)
    entropy[logits.argmax(1) != labels] = -1
    best = [int(np.where(labels == label, entropy, -2).argmax()) for label in np.unique(labels)]
    return np.array(sorted(best, key=lambda image: -entropy[image])[:count])


def agreement(first: Record, second: Record) -> float:
    """Share (%) of test images that two runs give the same class."""
    return 100 * float(np.mean(first.predictions[0].argmax(1) == second.predictions[0].argmax(1)))


def calibration_error(record: Record, bins: int = 15) -> float:
    """Expected calibration error (%) on the test images: |confidence - accuracy| averaged over equal-width bins.

    Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), eq. 3.
    """
    logits, labels = record.predictions
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    confidence = exponentials.max(1) / exponentials.sum(1)
    correct = logits.argmax(1) == labels
    where = np.minimum((confidence * bins).astype(int), bins - 1)
    return 100 * sum(abs(confidence[where == b].sum() - correct[where == b].sum()) for b in range(bins)) / len(labels)
