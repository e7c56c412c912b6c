"""The run store: a finished run as a folder of plain files, with its provenance.

A record is the folder `<store>/<key>/` of spec.json, summary.json, history.csv, predictions.npz and model.safetensors,
written beside its place and renamed into it: whole or absent. Nothing in it is pickled.
"""

import hashlib
import json
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from kdutils.data.datasets import is_cached, load_dataset
from kdutils.errors import InputError
from kdutils.machine import Runtime, hardware
from kdutils.networks.counting import parameter_count
from kdutils.networks.registry import build_model
from kdutils.networks.weights import file_digest, imagenet_digest
from kdutils.settings import ROOT, settings
from kdutils.specs import RunSpec
from kdutils.training.loop import Outcome

_FILES = ("spec.json", "history.csv", "predictions.npz", "model.safetensors")


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
        """Test logits, float32 [N, classes], and labels, uint8 or int16 [N]."""
        with np.load(self.path / "predictions.npz", allow_pickle=False) as file:
            return file["logits"], file["labels"]

    @property
    def digest(self) -> str:
        """SHA-256 of the trained weights' file."""
        return self.summary["files"]["model.safetensors"]

    @property
    def diverged(self) -> bool:
        """Whether the run's loss was not finite; it then ended with that epoch, and its metrics are NaN."""
        return bool(self.summary.get("diverged"))

    def metric(self, split: str, name: str = "accuracy") -> float:
        """The last epoch's accuracy (%) or loss (nats) on split train, val or test."""
        value = self.summary["metrics"][split][name]
        return float("nan") if value is None else value

    @property
    def network(self) -> dict:
        """What `kdutils.networks.packed.pack` stores to build the network again, and how its images are normalised."""
        data, model = self.spec.data, self.spec.model
        named = {"name": model.name, "options": model.options}
        return named | {"num_classes": data.num_classes, "normalisation": data.normalisation}

    def load_model(self) -> nn.Module:
        """The trained network, on the CPU, in evaluation mode."""
        model = build_model(self.spec.model.name, self.spec.data.num_classes, **self.spec.model.options)
        model.load_state_dict(load_file(self.path / "model.safetensors"))
        return model.eval()

    def load_head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the trained classifier `fc` alone, on the CPU: [classes, features] and [classes]."""
        with safe_open(self.path / "model.safetensors", "pt") as file:
            return file.get_tensor("fc.weight"), file.get_tensor("fc.bias")


def start_digest(spec: RunSpec) -> str | None:
    """The digest of the file of weights that `spec` starts from, as it is now; None where there is none."""
    if spec.weights_file:
        return file_digest(spec.weights_file) if spec.weights_file.is_file() else None
    return imagenet_digest(spec.model.name) if spec.init == "imagenet" else None


def read_record(path: Path) -> Record:
    """The record in folder `path`, every file checked.

    Raises `ValueError` or `KeyError` if it is not whole, `OSError` where it cannot be read.
    """
    try:
        summary = _read_summary(path)
        for name in _FILES:
            if _sha256(path / name) != summary["files"][name]:
                raise ValueError(f"{name} is damaged")
        spec = RunSpec.model_validate_json((path / "spec.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{Path(error.filename).name} is missing") from None
    if spec.key != path.name:
        raise ValueError(f"its spec is that of {spec.key}")
    return Record(path, spec, summary)


def _read_summary(path: Path) -> dict:
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or summary.get("digest") != _digest(summary):
        raise ValueError("summary.json is damaged")
    return summary


@contextmanager
def writing(what: str, remedy: str = "free space there or set KD_RUNS_DIR") -> Iterator[None]:
    """A context that raises `InputError` with the `remedy` if `what` cannot be written in the store."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} cannot be written ({error.strerror}): {remedy}") from None


@dataclass(frozen=True)
class Store:
    """The folder of records, checkpoints and teacher tables, by default that of `KD_RUNS_DIR`; made if missing."""

    folder: Path = field(default_factory=lambda: settings().runs_dir)

    def __post_init__(self) -> None:
        with writing(f"the run store {self.folder}", "set KD_RUNS_DIR to a folder that can"):
            self.folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> Record:
        """The record whose key or folder is `name`; raises `InputError` if there is none or it is not whole."""
        path = Path(name) if Path(name).is_dir() else self.folder / name
        try:
            return read_record(path.absolute())
        except (OSError, ValueError, KeyError) as error:
            keys = sorted(summary.parent.name for summary in self.folder.glob("*/summary.json"))
            known = f"{keys[0]} and {len(keys) - 1} others" if keys else "none yet"
            raise InputError(
                f"no run {name!r} in {self.folder} ({error}): recorded are {known}; a report's records/ names its runs"
            ) from None

    def find(self, spec: RunSpec) -> Record | None:
        """The record of `spec`, or None; if it is damaged or rests on other inputs, it is set aside with a warning.

        Raises `InputError` if the record cannot be read, because nothing is then known about it.
        """
        path = self.folder / spec.key
        if not path.is_dir():
            return None
        record = None
        try:
            record = read_record(path)
            self._check_sources(spec, record.summary)
            return record
        except OSError as error:
            raise InputError(f"the record {path} cannot be read ({error}): mend that and try again") from None
        except (ValueError, KeyError, TypeError) as error:
            if record and isinstance(error, InputError):  # unreadable data or weights say nothing about it
                raise
            aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
            with suppress(FileNotFoundError):  # another process was quicker
                os.replace(path, aside)
            warnings.warn(f"{path} is not used ({error}): set aside as {aside.name} and run again", stacklevel=2)
            return None

    def _check_sources(self, spec: RunSpec, summary: dict) -> None:
        """Raise `ValueError` if a record, or one it rests on, was made from other data or weights than are here."""
        made_from = summary["data"]["digest"]
        here = spec.data.digest or (load_dataset(spec.data.name).digest if is_cached(spec.data.name) else made_from)
        if here != made_from:
            raise ValueError(f"{spec.key} was made from {spec.data.name} with digest {made_from}, here it has {here}")
        weights = start_digest(spec)
        if weights and weights not in summary["weights"]:
            raise ValueError(f"the weights {spec.key} started from have changed: {summary['weights']}, now {weights}")
        needs = {needed.key: needed for needed in spec.needs}
        for key, digest in (summary["teachers"] | summary.get("start", {})).items():
            try:
                theirs = _read_summary(self.folder / key)
            except (FileNotFoundError, ValueError):  # a lost or damaged record says nothing about this one
                continue
            if theirs["files"]["model.safetensors"] != digest:
                raise ValueError(f"{key}, which it rests on, has been trained anew")
            self._check_sources(needs[key], theirs)

    def save(self, spec: RunSpec, model: nn.Module, outcome: Outcome, runtime: Runtime, facts: dict) -> Record:
        """Write the record of a finished run; `facts` (digests of all it rests on) join its summary.

        Raises `InputError`, which names the folder, if the disk is full or the folder cannot be written; the store is
        then unchanged.
        """
        path = self.folder / spec.key
        with (
            writing(f"the record {path}"),
            TemporaryDirectory(prefix=f".{spec.key}-", dir=self.folder, ignore_cleanup_errors=True) as made,
        ):
            draft = Path(made)
            (draft / "spec.json").write_text(spec.model_dump_json(indent=1), encoding="utf-8")
            pd.DataFrame(outcome.history).to_csv(draft / "history.csv", index=False)
            np.savez_compressed(draft / "predictions.npz", logits=outcome.logits, labels=outcome.labels)
            tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
            (draft / "model.safetensors").write_bytes(save(tensors))  # `save_file` would let no other user read it
            files = {"files": {name: _sha256(draft / name) for name in _FILES}}
            summary = _summary(spec, model, outcome, runtime) | facts | files
            summary["digest"] = _digest(summary)
            (draft / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
            draft.chmod(0o755)
            try:
                os.replace(draft, path)
            except OSError:
                if not path.is_dir():
                    raise  # else another process was quicker: its record is as good
        return read_record(path)


def _summary(spec: RunSpec, model: nn.Module, outcome: Outcome, runtime: Runtime) -> dict:
    summary = {
        "key": spec.key,
        "metrics": outcome.metrics,
        "parameters": parameter_count(model),
        "seconds": outcome.seconds,
        "images_per_second": outcome.images_per_second,
        "peak_memory_mb": outcome.peak_memory_mb,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(runtime),
    }
    if outcome.diverged:
        return summary | {"diverged": outcome.diverged}
    validated = [row for row in outcome.history if "val_accuracy" in row]
    if validated:  # what the documents call their best; never our headline
        best = max(validated, key=lambda row: row["val_accuracy"])
        summary["best_val"] = {name: best[f"val_{name}"] for name in ("accuracy", "loss")} | {"epoch": best["epoch"]}
    return summary


def environment(runtime: Runtime) -> dict[str, str]:
    """Device, precision, threads, versions and the code's digest, as they are now."""
    return {
        "hardware": hardware(),
        "runtime": runtime.name,
        "threads": str(torch.get_num_threads()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "numpy")},
        "code": CODE,
    }


def _code_version() -> str:
    """A digest of the package's sources; in a repository of its own, also the commit and whether they have changed."""
    package = ROOT / "kdutils"
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(package.rglob("*.py")))).hexdigest()[:12]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if not done.returncode else ""

    try:
        own = git("rev-parse", "--show-toplevel")
        if not own or Path(own).resolve() != ROOT.resolve() or not git("ls-files", "kdutils"):
            return f"sources {sources}"
        changed = ", changed since" if git("status", "--porcelain", "--", "kdutils") else ""
        return f"sources {sources}, commit {git('rev-parse', '--short=12', 'HEAD')}{changed}"
    except OSError:  # no git on this machine
        return f"sources {sources}"


CODE = _code_version()  # of the code that was loaded, whatever happens to the files during a long run


def _digest(summary: dict) -> str:
    """SHA-256 of a summary's content without this digest itself."""
    content = {name: value for name, value in summary.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
