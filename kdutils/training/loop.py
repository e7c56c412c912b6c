"""The training loop: a single readable one for every network of the suite."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kdutils.data.views import IDENTITY_VIEW, epoch_stream, render
from kdutils.distillation.bayesian import FeaturePrior
from kdutils.errors import InputError
from kdutils.machine import Runtime, forget_peak_memory, keep_freed_memory, peak_memory_mb
from kdutils.specs import RunSpec
from kdutils.training.checkpoints import Checkpoint, Progress
from kdutils.training.frozen import freeze, train_mode
from kdutils.training.inputs import Inputs
from kdutils.training.optimisers import learning_rate, make_optimiser
from kdutils.training.step import Step

_CHUNK = 1024  # images rendered at a time: large enough to hide Python's cost, small enough for the cache
_EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Outcome:
    """The result of a finished run: a row per epoch, final metrics by split, test logits and labels, and its cost.

    A run whose loss is not finite ends with that epoch, the number in `diverged`; its metrics are None.
    """

    history: list[dict[str, float]]
    metrics: dict[str, dict[str, float | None]]
    logits: np.ndarray
    labels: np.ndarray
    seconds: float
    images_per_second: float
    peak_memory_mb: float
    diverged: int | None = None


def train(
    model: nn.Module,
    spec: RunSpec,
    inputs: Inputs,
    report: Callable[[float], None] = lambda epochs: None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train `model` in place as `spec` says and evaluate it; the test set is read once, after the last epoch.

    (With `spec.test_curve`, also after every epoch.) With `inputs.features` only the head, `model.fc`, is computed, and
    the seconds that its features took are added to the run's.
    report(epochs) is called with the epochs that are done (a float): at the start, after every 1,024 images and every
    epoch; if `checkpoint` has a file, training continues from it.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)  # some GPU operations are not: they warn
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    keep_freed_memory()
    forget_peak_memory(inputs.runtime)
    freeze(model, spec.trainable)
    if spec.bayesian and spec.bayesian.feature_weight:  # a part of the network while it trains: optimised and resumed
        model.feature_prior = FeaturePrior(model.fc.out_features, model.fc.in_features)
    runtime, saved = inputs.runtime, time.monotonic()
    model.to(runtime.device, memory_format=torch.channels_last)
    trained = model.fc if inputs.features else model
    optimiser = make_optimiser(spec.optimiser, trained)
    progress = checkpoint.resume(model, optimiser) if checkpoint else Progress()
    progress.seconds = progress.seconds or inputs.features_seconds
    report(progress.epoch)
    step = Step(trained, optimiser, spec, runtime)
    feed, test = _Feed(spec, inputs), _Feed(spec, inputs, is_test=True)
    tested = None
    while progress.epoch < spec.epochs and not progress.diverged:
        began = time.monotonic()
        row = _train_epoch(trained, step, optimiser, feed, spec, inputs, progress.epoch, report)
        if len(inputs.val):
            row |= feed.scores(feed.predict(trained), "val_")
        if spec.test_curve:
            tested = test.predict(model)
            row |= test.scores(tested, "test_")
        progress.seconds += time.monotonic() - began
        progress.epoch += 1
        progress.history.append({"epoch": progress.epoch, **row, "seconds": round(progress.seconds, 3)})
        progress.diverged = None if math.isfinite(row["train_loss"]) else progress.epoch
        report(progress.epoch)
        if checkpoint and progress.epoch < spec.epochs and time.monotonic() - saved >= checkpoint.seconds:
            checkpoint.save(model, optimiser, progress)
            saved = time.monotonic()
    if not spec.epochs:  # weights from a file, only to be evaluated
        row = feed.scores(feed.predict(trained), "val_") if len(inputs.val) else {}
        progress.history.append({"epoch": 0, **row, "seconds": 0.0})
    if hasattr(model, "feature_prior"):
        del model.feature_prior
    tested = test.predict(model) if tested is None else tested
    if not spec.epochs and not torch.isfinite(tested).all():
        raise InputError(f"{spec.weights_file}: its network's logits are not finite: give other weights")
    return _outcome(progress, tested, test, len(inputs.train) * progress.epoch, runtime)


def _outcome(progress: Progress, tested: torch.Tensor, test: _Feed, images: int, runtime: Runtime) -> Outcome:
    scores = test.scores(tested, "test_")
    last, diverged = progress.history[-1] | scores, progress.diverged
    if not diverged and not math.isfinite(scores["test_loss"]):  # in the last step
        diverged = progress.epoch
    metrics: dict[str, dict[str, float | None]] = {}
    for split in ("train", "val", "test"):
        if f"{split}_loss" in last:
            named = {name: last[f"{split}_{name}"] for name in ("loss", "accuracy")}
            metrics[split] = dict.fromkeys(named) if diverged else named
    return Outcome(
        progress.history,
        metrics,
        tested.numpy(),
        test.labels[test.predicted].cpu().numpy().astype(np.uint8 if tested.shape[1] <= 256 else np.int16),
        round(progress.seconds, 3),
        round(images / progress.seconds, 1) if progress.seconds else 0.0,
        round(peak_memory_mb(runtime), 1),
        diverged,
    )


class _Feed:
    """The inputs of the trained part of a network, views of images or cached features, and its evaluation.

    It has the training images, and predicts those of validation among them; or, if `is_test`, it has the test images.
    """

    def __init__(self, spec: RunSpec, inputs: Inputs, is_test: bool = False):
        data, self.runtime, self.normalisation = inputs.dataset, inputs.runtime, spec.data.normalisation
        self.features = None if is_test else inputs.features
        self.predicted = np.arange(len(data.test_labels[: spec.data.test_size])) if is_test else inputs.val
        images, labels = (data.test_images, data.test_labels) if is_test else (data.train_images, data.train_labels)
        self.images, self.labels = images.to(self.runtime.device), labels.to(self.runtime.device).long()

    def inputs(self, indices: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """The images `indices` in `views`, int64 [B] each, as float32 [B, 3, 32, 32], or their features [B, D]."""
        if self.features:
            return self.features.lookup(indices, views).to(self.runtime.device)
        return render(self.images, *(codes.to(self.runtime.device) for codes in (indices, views)), self.normalisation)

    @torch.inference_mode()
    def predict(self, model: nn.Module) -> torch.Tensor:
        """Logits of the unaugmented images that are evaluated, float32 [N, classes] on the CPU."""
        model.eval()
        parts = []
        for batch in torch.from_numpy(self.predicted).split(_EVALUATION_BATCH):
            with self.runtime.autocast():
                parts.append(model(self.inputs(batch, torch.full_like(batch, IDENTITY_VIEW))).float())
        return torch.cat(parts).cpu()

    def scores(self, logits: torch.Tensor, prefix: str) -> dict[str, float]:
        """Mean cross-entropy (nats) and accuracy (%) of logits that `predict` returned."""
        labels = self.labels[self.predicted].cpu()
        accuracy = 100 * (logits.argmax(1) == labels).double().mean().item()
        return {f"{prefix}loss": F.cross_entropy(logits, labels).item(), f"{prefix}accuracy": round(accuracy, 6)}


def _train_epoch(
    model, step: Step, optimiser, feed: _Feed, spec: RunSpec, inputs: Inputs, epoch: int, report: Callable
) -> dict[str, float]:
    """Train for one pass over the images; returns the last learning rate, and means of loss, accuracy and terms."""
    torch.manual_seed(int(np.random.RandomState([spec.seed, epoch, 1]).randint(2**31)))  # same dropout if resumed
    train_mode(model)
    indices, views = epoch_stream(inputs.train, spec.data.views, spec.seed, epoch)
    labels, batches = feed.labels[indices.to(inputs.runtime.device)], _batches(len(indices), spec.batch_size)
    totals = torch.zeros((), device=inputs.runtime.device)  # sums over images, kept on the device: no host sync
    per_chunk = max(1, _CHUNK // spec.batch_size)
    for first in range(0, len(batches), per_chunk):
        chunk = batches[first : first + per_chunk]
        where = slice(chunk[0].start, chunk[-1].stop)
        if first:
            report(epoch + where.start / len(indices))
        pixels = feed.inputs(indices[where], views[where])
        if inputs.tables:
            looked_up = [table.lookup(indices[where], views[where]) for table in inputs.tables]
            taught = torch.stack(looked_up).to(inputs.runtime.device)
        for number, batch in enumerate(chunk, first):
            part = slice(batch.start - where.start, batch.stop - where.start)
            rate = learning_rate(spec.optimiser, epoch + number / len(batches), spec.epochs)
            for group in optimiser.param_groups:
                group["lr"] = rate
            answers = (taught[:, part],) if inputs.tables else ()
            found = step((pixels[part], labels[batch], *answers), epoch + 1)
            totals = totals + found * (batch.stop - batch.start)
    means = {f"train_{name}": total / len(indices) for name, total in zip(step.names, totals.tolist(), strict=True)}
    return {"learning_rate": rate, **means}


def _batches(count: int, size: int) -> list[slice]:
    """Slices of `size`, the last partial; a single left-over image joins the one before, as batch norm needs two."""
    return [slice(start, stop) for start, stop in pairwise((0, *range(size, count - 1, size), count))]
