"""Records made of given numbers: all that tables and figures read, and no training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from kdutils.runs.records import Record
from kdutils.specs import DataSpec, Distillation, ModelSpec, RunSpec

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())


def spec_of(
    seed: int = 0,
    *,
    name: str = "small_cnn",
    temperature: float | None = None,
    kd_weight: float = 0.5,
    val_size: int = 100,
    **fields,
) -> RunSpec:
    """A small network's spec; with a temperature, distilled from a ResNet18."""
    data = DataSpec(name="synthetic", train_size=200, val_size=val_size, test_size=40, views=2)
    options = {} if name == "small_cnn" else {"stem": fields.pop("stem", "cifar_pool")}
    taught = temperature and Distillation(
        teachers=(spec_of(name="resnet18"),), temperature=temperature, kd_weight=kd_weight
    )
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
    **summary,
) -> Record:
    """A record in a new folder of `folder`: three epochs, test accuracy `test` (%), logits [N, classes], labels [N]."""
    spec = spec or spec_of()
    validated = spec.data.val_size > 0
    path = folder / f"{spec.key}-{len(list(folder.glob('*')))}"
    path.mkdir(parents=True)
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "learning_rate": 1e-3, "train_loss": [2.0, 1.7, 1.5], "train_accuracy": [20.0, 35.0, 45.0]}
    )
    if spec.distillation:
        history = history.assign(train_cross_entropy=[2.2, 1.9, 1.8], train_distillation=[1.8, 1.5, 1.2])
    if validated:
        history = history.assign(val_loss=[1.9, 1.3, val_loss], val_accuracy=[30.0, 55.0, val])
    history.to_csv(path / "history.csv", index=False)
    random = np.random.RandomState(spec.seed)
    labels = np.arange(40) % 10 if labels is None else labels
    logits = random.normal(size=(len(labels), 10)) + 2 * np.eye(10)[labels] if logits is None else logits
    np.savez(
        path / "predictions.npz", logits=np.asarray(logits, dtype=np.float32), labels=np.asarray(labels, dtype=np.uint8)
    )
    metrics = {"train": {"loss": 1.5, "accuracy": 45.0}, "test": {"loss": 1.2, "accuracy": test}}
    facts = {
        "key": spec.key,
        "metrics": metrics | ({"val": {"loss": val_loss, "accuracy": val}} if validated else {}),
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
