"""Records made of given numbers: all that tables and figures read, and no training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kdutils.data.datasets import load_dataset
from kdutils.distillation.methods import KD
from kdutils.machine import Runtime
from kdutils.runs.records import Record, Store
from kdutils.specs import Bayesian, DataSpec, Distillation, ModelSpec, RunSpec
from kdutils.training.loop import Outcome

PNG = (  # one grey pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())


def spec_of(
    seed: int = 0,
    *,
    name: str = "small_cnn",
    temperature: float | None = None,
    kd_weight: float = 0.5,
    val_size: int = 100,
    dataset: str = "cifar10",
    **fields,
) -> RunSpec:
    """A small network's spec; with a temperature, distilled from a ResNet18, or with `teachers` from these."""
    views = fields.pop("views", 2)
    data = DataSpec(name=dataset, train_size=200, val_size=val_size, test_size=40, views=views)
    options = {} if name == "small_cnn" else {"stem": fields.pop("stem", "cifar_pool")}
    teachers = fields.pop("teachers", None) or ((spec_of(name="resnet18", dataset=dataset),) if temperature else ())
    method = KD(temperature=temperature or 4.0, kd_weight=kd_weight)
    taught = Distillation(teachers=teachers, method=method) if teachers else None
    return RunSpec(
        data=data, model=ModelSpec(name=name, options=options), epochs=3, seed=seed, distillation=taught, **fields
    )


def record_of(
    folder: Path,
    spec: RunSpec | None = None,
    *,
    test: float = 60.0,
    val: float = 50.0,
    val_loss: float = 1.4,
    best_val: tuple[float, float] = (55.0, 1.3),
    logits: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    diverged: bool = False,
    **summary,
) -> Record:
    """A record in a new folder of `folder`: three epochs, test accuracy `test` (%), logits [N, classes], labels [N].

    One that diverged has two epochs, the loss of the second no number; accuracies it still has, as real ones may.
    """
    spec = spec or spec_of()
    validated = spec.data.val_size > 0
    path = folder / f"{spec.key}-{len(list(folder.glob('*')))}"
    path.mkdir(parents=True)
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "learning_rate": 1e-3, "train_loss": [2.0, 1.7, 1.5], "train_accuracy": [20.0, 35.0, 45.0]}
    )
    if spec.distillation:
        history = history.assign(train_ce=[2.2, 1.9, 1.8], train_kd=[1.8, 1.5, 1.2])
    if validated:
        history = history.assign(val_loss=[1.9, 1.3, val_loss], val_accuracy=[30.0, 55.0, val])
    if diverged:
        history = history[:2].assign(train_loss=[2.0, np.nan])
        logits = np.full((40, 10), np.nan)
    history.to_csv(path / "history.csv", index=False)
    random = np.random.RandomState(spec.seed)
    labels = np.arange(40) % 10 if labels is None else labels
    logits = random.normal(size=(len(labels), 10)) + 2 * np.eye(10)[labels] if logits is None else logits
    np.savez(
        path / "predictions.npz", logits=np.asarray(logits, dtype=np.float32), labels=np.asarray(labels, dtype=np.int16)
    )
    metrics = {"train": {"loss": 1.5, "accuracy": 45.0}, "test": {"loss": 1.2, "accuracy": test}}
    metrics |= {"val": {"loss": val_loss, "accuracy": val}} if validated else {}
    if diverged:
        metrics = {split: {"loss": None, "accuracy": scores["accuracy"]} for split, scores in metrics.items()}
    facts = {
        "key": spec.key,
        "metrics": metrics,
        "diverged": diverged,
        "best_val": {"accuracy": best_val[0], "loss": best_val[1], "epoch": 2},
        "parameters": 268_650,
        "seconds": 12.0,
        "images_per_second": 2_000.0,
        "peak_memory_mb": 500.0,
        "environment": {"hardware": "an abacus, 2 cores", "torch": "2.11.0", "code": "sources 0123456789ab"},
        "data": {"title": "synthetic data", "digest": "feedfacecafebeef"},
        "weights": None,
    } | summary
    (path / "summary.json").write_text(json.dumps(facts))
    return Record(path, spec, facts)


def runs(folder: Path, accuracies, *, diverged: tuple[int, ...] = (), **fields) -> list[Record]:
    """A record for each test accuracy (%), with seeds 0, 1, ...; those of the seeds in `diverged` diverged."""
    specs = [spec_of(seed, **fields) for seed in range(len(accuracies))]
    return [
        record_of(folder, spec, test=test, diverged=spec.seed in diverged)
        for spec, test in zip(specs, accuracies, strict=True)
    ]


def lambda_arms(folder: Path, accuracies: dict[str, dict[float, float]]) -> dict[str, list[Record]]:
    """What `Binary.lambdas` leads to: by optimiser, validation accuracy (%) of XNOR (None) and of BONN by lambda."""
    arms = {}
    for name, found in accuracies.items():
        for weight, val in found.items():
            precision = "xnor" if weight is None else "bonn"
            model = ModelSpec(name="wrn_10_1", options={"precision": precision})
            spec = spec_of().with_(model=model, bayesian=None if weight is None else Bayesian(kernel_weight=weight))
            arms.setdefault(f"{precision.upper()}, {name}", []).append(record_of(folder / name, spec, val=val))
    return arms


def store_run(spec: RunSpec, logits: np.ndarray, val: float | None) -> Record:
    """A record in the default store, as if `spec` had run: its test logits, its accuracy (%) on validation images; with
    None, it diverged."""
    labels = load_dataset(spec.data.name).test_labels[: len(logits)].numpy()
    metrics = {split: {"loss": None if val is None else 1.0, "accuracy": val} for split in ("train", "val", "test")}
    outcome = Outcome([{"epoch": 1}], metrics, logits, labels, 1.0, 1.0, 1.0, diverged=1 if val is None else None)
    facts = {"data": {"digest": load_dataset(spec.data.name).digest}, "weights": None, "teachers": {}}
    runtime = Runtime(torch.device("cpu"), torch.float32)
    return Store().save(spec, torch.nn.Linear(1, 1), outcome, runtime, facts)


def write_explored(folder: Path) -> np.ndarray:
    """Tables as chapter 11 keeps them, small, in `folder`; the logits [image, class] of their one classifier."""
    folder.mkdir(parents=True, exist_ok=True)
    logits = np.random.RandomState(3).normal(size=(2, 10)).round(4)
    rows = [(i, "ResNet50", name, z) for i in range(2) for name, z in zip(CLASSES, logits[i], strict=True)]
    cells = [("ResNet50", t, w, 60.0 + t - w, 1.5, (t, w) == (8.0, 0.5)) for t in (2.0, 8.0) for w in (0.5, 0.9)]
    tables = {
        "images": pd.DataFrame({"image": [0, 1], "class": ["cat", "dog"], "png": [PNG, PNG]}),
        "logits": pd.DataFrame(rows, columns=["image", "classifier", "class", "logit"]),
        "confusion": pd.DataFrame(
            [("ResNet50", "cat", "cat", 30), ("ResNet50", "cat", "dog", 9), ("ResNet50", "dog", "dog", 20)],
            columns=["classifier", "class", "taken for", "images"],
        ),
        "grid": pd.DataFrame(
            cells, columns=["teachers", "temperature", "kd_weight", "accuracy", "error", "chosen"]
        ).assign(setting="CIFAR-10: imagined numbers; profile paper."),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"11_{name}.csv", index=False)
    return logits
