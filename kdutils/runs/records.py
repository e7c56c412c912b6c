"""The run store: a finished run as a folder of plain files, with its provenance.

A record is the folder `KD_RUNS_DIR/<key>/` of spec.json, summary.json, history.csv, predictions.npz and
model.safetensors, written beside its place and renamed into it: whole or absent. Nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
import warnings
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from kdutils.data.datasets import is_cached, load_dataset
from kdutils.errors import InputError
from kdutils.machine import Runtime, hardware
from kdutils.networks.counting import parameter_count
from kdutils.networks.registry import build_model
from kdutils.networks.weights import file_digest
from kdutils.settings import settings
from kdutils.specs import RunSpec
from kdutils.training.loop import Outcome

_FILES = ("spec.json", "history.csv", "predictions.npz", "model.safetensors")


def runs_dir() -> Path:
    """The folder of records and teacher tables, made where it is not there."""
    folder = settings().runs_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the run store {folder} cannot be written ({error.strerror}): set KD_RUNS_DIR to a folder that can"
        ) from None
    return folder


@dataclass(frozen=True)
class Record:
    """A finished run on disk. `summary` holds metrics by split, cost and provenance; the rest is read on demand."""

    path: Path
    spec: RunSpec
    summary: dict

    @property
    def history(self) -> pd.DataFrame:
        """A row per epoch: learning rate, losses (nats), accuracies (%), seconds so far."""
        return pd.read_csv(self.path / "history.csv")

    @property
    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """Test logits, float32 [N, classes], and labels, uint8 [N]."""
        with np.load(self.path / "predictions.npz", allow_pickle=False) as file:
            return file["logits"], file["labels"]

    @property
    def diverged(self) -> bool:
        """Stand-in: whether the run's loss stopped being finite."""
        return self.summary.get("diverged", False)

    @property
    def digest(self) -> str:
        """SHA-256 of the trained weights' file."""
        return self.summary["files"]["model.safetensors"]

    def metric(self, split: str, name: str = "accuracy") -> float:
        """The last epoch's accuracy (%) or loss (nats) on split train, val or test."""
        number = self.summary["metrics"][split][name]
        return float("nan") if number is None else number

    @property
    def network(self) -> dict:
        """What builds the network again, and how its images are normalised (`kdutils.networks.packed.pack`)."""
        data, model = self.spec.data, self.spec.model
        return dict(
            name=model.name, options=model.options, num_classes=data.num_classes, normalisation=data.normalisation
        )

    def load_model(self) -> nn.Module:
        """The trained network, on the CPU, in evaluation mode."""
        model = build_model(self.spec.model.name, self.spec.data.num_classes, **self.spec.model.options)
        model.load_state_dict(load_file(self.path / "model.safetensors"))
        return model.eval()


@dataclass(frozen=True)
class Store:
    """Stand-in: the store in a folder."""

    folder: Path


def read_record(path: Path) -> Record:
    """The record in folder `path`, every file checked; raises `OSError`, `ValueError` or `KeyError` if it is not whole."""
    summary = json.loads((path / "summary.json").read_text())
    if not isinstance(summary, dict) or summary.get("digest", _digest(summary)) != _digest(summary):
        raise ValueError("summary.json is damaged")
    for name in _FILES:
        if _sha256(path / name) != summary["files"][name]:
            raise ValueError(f"{name} is damaged")
    spec = RunSpec.model_validate_json((path / "spec.json").read_text())
    if spec.key != path.name:
        raise ValueError(f"its spec is that of {spec.key}")
    return Record(path, spec, summary)


def recorded(name: str) -> Record:
    """The record whose key or folder is `name`; raises `InputError` where there is none, or it does not read back."""
    path = Path(name) if Path(name).is_dir() else runs_dir() / name
    try:
        return read_record(path.absolute())
    except (OSError, ValueError, KeyError) as error:
        keys = sorted(summary.parent.name for summary in runs_dir().glob("*/summary.json"))
        known = f"{keys[0]} and {len(keys) - 1} others" if keys else "none yet"
        raise InputError(
            f"no run {name!r} in {runs_dir()} ({error}): recorded are {known}; a report's records/ folder names its runs"
        ) from None


def find(spec: RunSpec) -> Record | None:
    """The spec's record, or None; one that does not read back, or rests on other data, is set aside with a warning."""
    path = runs_dir() / spec.key
    if not path.is_dir():
        return None
    data = load_dataset(spec.data.name).digest if is_cached(spec.data.name) else None
    try:
        record = read_record(path)
        _check_sources(record, data)
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        os.replace(path, aside)
        warnings.warn(
            f"the record {path} does not read back ({error}): set aside as {aside.name} and run again", stacklevel=2
        )
        return None


def _check_sources(record: Record, data: str | None) -> None:
    """Raise `ValueError` where the record was made from other data or from other runs than are here now."""
    made_from = record.summary["data"]["digest"]
    if data and data != made_from:
        raise ValueError(f"it was made from {record.spec.data.name} with digest {made_from}, here it has {data}")
    weights = record.spec.weights_file
    if weights and weights.is_file() and file_digest(weights) not in record.summary["weights"]:
        raise ValueError(f"the weights in {weights} have changed since")
    for role, runs in (
        ("its teacher", record.summary["teachers"]),
        ("the run it goes on from,", record.summary.get("start", {})),
    ):
        for key, digest in runs.items():
            summary = runs_dir() / key / "summary.json"
            if summary.is_file() and json.loads(summary.read_text())["files"]["model.safetensors"] != digest:
                raise ValueError(f"{role} {key} has been trained anew")


def save(spec: RunSpec, model: nn.Module, outcome: Outcome, runtime: Runtime, facts: dict) -> Record:
    """Write the record of a finished run; `facts` (data, weights, the runs it needed) join its summary.

    Raises `InputError` that names the folder where the disk is full or the folder cannot be written; the store then
    holds what it held before.
    """
    draft = None
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{spec.key}-", dir=runs_dir()))
        (draft / "spec.json").write_text(spec.model_dump_json(indent=1))
        pd.DataFrame(outcome.history).to_csv(draft / "history.csv", index=False)
        np.savez_compressed(draft / "predictions.npz", logits=outcome.logits, labels=outcome.labels)
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()},
            draft / "model.safetensors",
        )
        summary = (
            _summary(spec, model, outcome, runtime)
            | facts
            | {"files": {name: _sha256(draft / name) for name in _FILES}}
        )
        (draft / "summary.json").write_text(json.dumps(summary | {"digest": _digest(summary)}, indent=1))
        os.chmod(draft, 0o755)
        if find(spec) is None:  # else another process was quicker: its record is as good
            os.replace(draft, runs_dir() / spec.key)
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        raise InputError(
            f"the record of {spec.key} cannot be written to {runs_dir()} ({getattr(error, 'strerror', None) or error}): free space there or set KD_RUNS_DIR"
        ) from None
    finally:
        if draft:
            shutil.rmtree(draft, ignore_errors=True)
    return read_record(runs_dir() / spec.key)


def _summary(spec: RunSpec, model: nn.Module, outcome: Outcome, runtime: Runtime) -> dict:
    summary = {
        "key": spec.key,
        "metrics": outcome.metrics,
        "parameters": parameter_count(model),
        "seconds": outcome.seconds,
        "images_per_second": outcome.images_per_second,
        "peak_memory_mb": outcome.peak_memory_mb,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment(runtime),
    }
    validated = [row for row in outcome.history if "val_accuracy" in row]
    if validated:  # what the documents call their best; never our headline
        best = max(validated, key=lambda row: row["val_accuracy"])
        summary["best_val"] = {name: best[f"val_{name}"] for name in ("accuracy", "loss")} | {"epoch": best["epoch"]}
    return summary


def environment(runtime: Runtime) -> dict[str, str]:
    """Device, precision, threads, versions and the code's digest, as they are now."""
    packages = {name: version(name) for name in ("torch", "torchvision", "numpy")}
    return {
        "hardware": hardware(),
        "runtime": runtime.name,
        "threads": str(torch.get_num_threads()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **packages,
        "code": _CODE,
    }


def _code_version() -> str:
    """A digest of the package's sources, and the git commit where there is one."""
    root = Path(__file__).parent
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(root.rglob("*.py")))).hexdigest()[:12]
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=False
        )
    except OSError:  # no git on this machine
        return f"sources {sources}"
    commit = done.stdout.strip()
    return f"sources {sources}" + (f", commit {commit}" if commit else "")


_CODE = _code_version()  # of the code that was loaded, whatever happens to the files during a long run


def _digest(summary: dict) -> str:
    """SHA-256 of a summary's content, but for this digest itself (records made before it was kept have none)."""
    content = {name: value for name, value in summary.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
