"""The training loop: one, readable, for every network of the suite."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kdutils.data.datasets import Dataset
from kdutils.data.views import IDENTITY_VIEW, epoch_stream, render, split_indices
from kdutils.distillation.bayesian import FeaturePrior, kernel_losses
from kdutils.distillation.losses import soft_loss, teacher_log_probabilities
from kdutils.distillation.tables import ViewTable
from kdutils.machine import Runtime, keep_freed_memory, peak_memory_mb
from kdutils.specs import RunSpec
from kdutils.training.checkpoints import Progress, _resume, _save_checkpoint
from kdutils.training.frozen import freeze, train_mode
from kdutils.training.optimisers import _set_learning_rate, make_optimiser

_CHUNK = 1024  # images rendered at a time: large enough to hide Python's cost, small enough for the cache


_EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves: a row per epoch, final metrics by split, test logits and labels, and its cost."""

    history: list[dict[str, float]]
    metrics: dict[str, dict[str, float]]
    logits: np.ndarray
    labels: np.ndarray
    seconds: float
    images_per_second: float
    peak_memory_mb: float


def train(
    model: nn.Module,
    spec: RunSpec,
    dataset: Dataset,
    runtime: Runtime,
    tables: Sequence[ViewTable] = (),
    features: ViewTable | None = None,
    report: Callable[[int], None] = lambda epoch: None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
) -> Outcome:
    """Train `model` in place as `spec` says and evaluate it; the test set is read once, after the last epoch.

    (With `spec.test_curve` after every epoch too.)

    tables: the teachers' logits, one table each, filled for this run. features: the frozen backbone's outputs; then
    only the head, `model.fc`, is computed. report(epoch) is called after every epoch. checkpoint: a file written at
    most every `checkpoint_seconds` and continued from if it is there.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    keep_freed_memory()
    freeze(model, spec.trainable)
    if (
        spec.bayesian and spec.bayesian.feature_weight
    ):  # while training, a part of the network: optimised, kept, resumed
        model.feature_prior = FeaturePrior(model.fc.out_features, model.fc.in_features)
    model.to(runtime.device, memory_format=torch.channels_last)
    trained = model.fc if features else model
    optimiser = make_optimiser(spec.optimiser, trained)
    progress = _resume(checkpoint, model, optimiser) if checkpoint and checkpoint.is_file() else Progress()
    train_indices, val_indices = split_indices(dataset.train_labels, *spec.data.split)
    inputs = _Inputs(dataset, spec, runtime, features)
    saved, tested = time.monotonic(), None
    while progress.epoch < spec.epochs:
        began = time.monotonic()
        row = _train_epoch(trained, optimiser, inputs, train_indices, spec, runtime, tables, progress.epoch)
        row |= _validate(trained, inputs, val_indices, dataset, runtime)
        if spec.test_curve:
            tested = _test(model, spec, dataset, runtime)
            row |= _scores(*tested, "test_")
        progress.seconds += time.monotonic() - began
        progress.epoch += 1
        progress.history.append({"epoch": progress.epoch, **row, "seconds": round(progress.seconds, 3)})
        report(progress.epoch)
        if checkpoint and progress.epoch < spec.epochs and time.monotonic() - saved >= checkpoint_seconds:
            _save_checkpoint(checkpoint, model, optimiser, progress)
            saved = time.monotonic()
    if not spec.epochs:  # weights from a file, only to be evaluated
        progress.history.append(
            {"epoch": 0, **_validate(trained, inputs, val_indices, dataset, runtime), "seconds": 0.0}
        )
    if hasattr(model, "feature_prior"):
        del model.feature_prior
    return _finish(spec, progress, len(train_indices), tested or _test(model, spec, dataset, runtime), runtime)


def _validate(model, inputs, val_indices, dataset, runtime) -> dict[str, float]:
    """Loss and accuracy on the validation images, if there are any."""
    if not len(val_indices):
        return {}
    return _scores(predict(model, inputs, val_indices, runtime), dataset.train_labels[val_indices], "val_")


def _test(model, spec, dataset, runtime) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the test images."""
    test_size = min(spec.data.test_size or len(dataset.test_labels), len(dataset.test_labels))
    logits = predict(model, _Inputs(dataset, spec, runtime, None, split="test"), np.arange(test_size), runtime)
    return logits, dataset.test_labels[:test_size]


def _finish(spec, progress, train_size, tested, runtime) -> Outcome:
    logits, labels = tested
    last = progress.history[-1]
    metrics = {
        split: {name: last[f"{split}_{name}"] for name in ("loss", "accuracy") if f"{split}_{name}" in last}
        for split in ("train", "val")
    }
    metrics["test"] = _scores(logits, labels, "")
    images = train_size * spec.epochs
    return Outcome(
        progress.history,
        {split: scores for split, scores in metrics.items() if scores},
        logits.numpy(),
        labels.numpy(),
        round(progress.seconds, 3),
        round(images / progress.seconds, 1) if images else 0.0,
        round(peak_memory_mb(runtime), 1),
    )


class _Inputs:
    """What the trained part of a network is fed for given images and views: pixels, or cached features."""

    def __init__(
        self, dataset: Dataset, spec: RunSpec, runtime: Runtime, features: ViewTable | None, split: str = "train"
    ):
        images, labels = (
            (dataset.train_images, dataset.train_labels)
            if split == "train"
            else (dataset.test_images, dataset.test_labels)
        )
        self.images = images.to(runtime.device)
        self.labels = labels.to(runtime.device).long()
        self.normalisation, self.features, self.device = spec.data.normalisation, features, runtime.device

    def __call__(self, indices: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        if self.features:
            return self.features.lookup(indices, views).to(self.device)
        return render(self.images, indices.to(self.device), views.to(self.device), self.normalisation)


def _train_epoch(model, optimiser, inputs, train_indices, spec, runtime, tables, epoch) -> dict[str, float]:
    """One pass over the training images; the mean loss and accuracy as they were while training."""
    torch.manual_seed(int(np.random.RandomState([spec.seed, epoch, 1]).randint(2**31)))  # dropout, resumed or not
    train_mode(model)
    indices, views = epoch_stream(train_indices, spec.data.views, spec.seed, epoch)
    batches = _batches(len(indices), spec.batch_size)
    totals: dict[str, torch.Tensor] = {}  # sums over images, kept on the device: no host sync
    kd, bayesian = spec.distillation and spec.distillation.method, spec.bayesian
    features = _FeatureTap(model) if bayesian and bayesian.feature_weight else None
    per_chunk = max(1, _CHUNK // spec.batch_size)
    for first in range(0, len(batches), per_chunk):
        chunk = batches[first : first + per_chunk]
        where = slice(chunk[0].start, chunk[-1].stop)
        pixels = inputs(indices[where], views[where])
        labels = inputs.labels[indices[where].to(runtime.device)]
        targets = None
        if kd:
            logits = torch.stack([table.lookup(indices[where], views[where]) for table in tables]).to(runtime.device)
            targets = teacher_log_probabilities(logits, kd.temperature, kd.average)
        for number, batch in enumerate(chunk, first):
            part = slice(batch.start - where.start, batch.stop - where.start)
            _set_learning_rate(optimiser, spec, epoch + number / len(batches))
            with runtime.autocast():
                outputs = model(pixels[part])
            outputs = outputs.float()
            loss = hard = F.cross_entropy(outputs, labels[part])
            terms = {}
            if kd:
                terms = {"cross_entropy": hard, "distillation": soft_loss(outputs, targets[part], kd.temperature)}
                loss = (1 - kd.kd_weight) * hard + kd.kd_weight * terms["distillation"]
            if bayesian:
                terms |= {"cross_entropy": hard, "kernel": kernel_losses(model, bayesian.kernel_weight, bayesian.nu)}
                loss = loss + terms["kernel"]
            if features:
                terms["feature"] = model.feature_prior(features.last, labels[part], bayesian.feature_weight)
                loss = loss + terms["feature"]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            terms |= {"loss": loss, "accuracy": 100 * (outputs.argmax(1) == labels[part]).float().mean()}
            for name, value in terms.items():
                totals[name] = totals.get(name, 0) + value.detach() * (batch.stop - batch.start)
    if features:
        features.remove()
    means = {name: total.item() / len(indices) for name, total in totals.items()}
    if not np.isfinite(means["loss"]):
        raise FloatingPointError(
            f"the loss of {spec.key} is {means['loss']} after epoch {epoch + 1}: lower the learning rate"
        )
    row = {
        "learning_rate": optimiser.param_groups[0]["lr"],
        "train_loss": means.pop("loss"),
        "train_accuracy": means.pop("accuracy"),
    }
    return row | {f"train_{name}": mean for name, mean in means.items()}


class _FeatureTap:
    """The features that a WideResNet last had before its dropout and classifier, float [B, D]."""

    def __init__(self, model: nn.Module):
        self._hook = model.dropout.register_forward_pre_hook(self._keep)

    def _keep(self, _, inputs: tuple[torch.Tensor]) -> None:
        (self.last,) = inputs

    def remove(self) -> None:
        """Stop listening."""
        self._hook.remove()


def _batches(count: int, size: int) -> list[slice]:
    """Slices of `size`, the last one partial; a single left-over image joins it, for batch norm needs two."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [slice(start, stop) for start, stop in zip(starts, starts[1:] + [count])]


@torch.inference_mode()
def predict(model: nn.Module, inputs: Callable, indices: np.ndarray, runtime: Runtime) -> torch.Tensor:
    """Logits of the unaugmented images, float32 [N, classes] on the CPU."""
    model.eval()
    parts = []
    for batch in torch.from_numpy(indices).split(_EVALUATION_BATCH):
        with runtime.autocast():
            parts.append(model(inputs(batch, torch.full_like(batch, IDENTITY_VIEW))).float())
    return torch.cat(parts).cpu()


def _scores(logits: torch.Tensor, labels: torch.Tensor, prefix: str) -> dict[str, float]:
    """Mean cross-entropy (nats) and accuracy (%)."""
    labels = labels.cpu().long()
    accuracy = 100 * (logits.argmax(1) == labels).double().mean().item()
    return {f"{prefix}loss": F.cross_entropy(logits, labels).item(), f"{prefix}accuracy": round(accuracy, 6)}
