"""The run store: a record is whole or absent, reads back as it was written, and holds nothing that runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from importlib.metadata import version

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdutils.errors import InputError
from kdutils.machine import Runtime
from kdutils.networks.registry import build_model
from kdutils.runs import records
from kdutils.runs.records import Store, read_record
from kdutils.specs import DataSpec, ModelSpec, RunSpec
from kdutils.training.loop import Outcome

FILES = ["history.csv", "model.safetensors", "predictions.npz", "spec.json", "summary.json"]
SPEC = RunSpec(
    data=DataSpec(name="cifar10", train_size=40, val_size=10), model=ModelSpec(name="small_cnn"), epochs=3, seed=4
)
RUNTIME = Runtime(torch.device("cpu"), torch.float32)


def outcome() -> Outcome:
    rows = [
        {"epoch": n, "train_loss": 1 / n, "val_loss": 0.1 + n / 3, "val_accuracy": accuracy, "seconds": n * 0.5}
        for n, accuracy in ((1, 20.0), (2, 60.0), (3, 40.0))
    ]
    logits = np.random.RandomState(0).randn(7, 10).astype(np.float32)
    metrics = {
        "train": {"loss": 1 / 3, "accuracy": 30.0},
        "val": {"loss": 1.1, "accuracy": 40.0},
        "test": {"loss": 2.5, "accuracy": 50.0},
    }
    return Outcome(
        rows, metrics, logits, np.arange(7, dtype=np.uint8), seconds=1.5, images_per_second=80.0, peak_memory_mb=12.5
    )


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("small_cnn", 10)


FACTS = {"data": {"title": "a part of CIFAR-10", "digest": "abc"}, "weights": None, "teachers": {}}


def saved(spec: RunSpec = SPEC, facts: dict = FACTS):
    return Store().save(spec, network(), outcome(), RUNTIME, facts)


def find(spec: RunSpec):
    return Store().find(spec)


def runs_dir():
    return Store().folder


def test_what_is_saved_reads_back():
    written = saved()
    record = find(SPEC)
    assert record.path == written.path == runs_dir() / SPEC.key and record.spec == SPEC
    assert record.history.to_dict("records") == [pytest.approx(row) for row in outcome().history]
    logits, labels = record.predictions
    assert (
        np.array_equal(logits, outcome().logits)
        and np.array_equal(labels, outcome().labels)
        and labels.dtype == np.uint8
    )
    assert [record.metric(split) for split in ("train", "val", "test")] == [30.0, 40.0, 50.0] and record.metric(
        "val", "loss"
    ) == 1.1
    assert record.digest == hashlib.sha256((record.path / "model.safetensors").read_bytes()).hexdigest()
    assert len({path.stat().st_mode for path in record.path.iterdir()}) == 1, "who can read one can read all"
    model = record.load_model()
    assert not model.training and all(
        torch.equal(tensor, network().state_dict()[name]) for name, tensor in model.state_dict().items()
    )


def test_the_summary_tells_cost_and_provenance():
    summary = saved(
        facts={"data": {"digest": "abc"}, "weights": "from somewhere", "teachers": {"resnet18-0": "def"}}
    ).summary
    assert (
        summary["key"],
        summary["parameters"],
        summary["seconds"],
        summary["images_per_second"],
        summary["peak_memory_mb"],
    ) == (SPEC.key, 268_650, 1.5, 80.0, 12.5)
    assert summary["best_val"] == {"accuracy": 60.0, "loss": pytest.approx(0.1 + 2 / 3), "epoch": 2}
    assert (
        summary["data"] == {"digest": "abc"}
        and summary["weights"] == "from somewhere"
        and summary["teachers"] == {"resnet18-0": "def"}
    )
    environment = summary["environment"]
    assert (
        environment["torch"] == version("torch")
        and environment["runtime"] == "cpu-float32"
        and environment["code"].startswith("sources ")
    )


def test_a_record_is_five_plain_files_and_none_is_pickled():
    path = saved().path
    assert sorted(file.name for file in path.iterdir()) == FILES
    for name in ("spec.json", "summary.json"):
        json.loads((path / name).read_text())
    with np.load(path / "predictions.npz", allow_pickle=False) as file:
        assert sorted(file) == ["labels", "logits"] and all(file[name].dtype.kind in "fu" for name in file)
    assert set(load_file(path / "model.safetensors")) == set(network().state_dict())
    assert [folder.name for folder in runs_dir().iterdir()] == [SPEC.key]


def test_what_was_never_run_is_not_found():
    assert find(SPEC) is None


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 128  # no text has this bit
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), truncate, flip], ids=["missing", "truncated", "a bit flipped"]
)
def test_a_damaged_record_is_set_aside_and_named(name, damage):
    path = saved().path
    damage(path / name)
    with pytest.warns(UserWarning, match=f"{path.name}.*set aside"):
        assert find(SPEC) is None
    aside = list(runs_dir().iterdir())
    assert len(aside) == 1 and aside[0].name.startswith(f"{SPEC.key}.damaged-") and len(list(aside[0].iterdir())) >= 4
    assert saved().path == path and find(SPEC).metric("test") == 50.0


def test_a_changed_number_in_the_summary_is_found():
    path = saved().path / "summary.json"
    path.write_text(path.read_text().replace('"accuracy": 50.0', '"accuracy": 90.0'))
    with pytest.warns(UserWarning, match="set aside"):
        assert find(SPEC) is None


@pytest.mark.parametrize("text", ["[]", "null", '{"files": []}'])
def test_a_summary_of_another_form_is_damage_too(text):
    (saved().path / "summary.json").write_text(text)
    with pytest.warns(UserWarning, match="set aside"):
        assert find(SPEC) is None


def test_a_record_under_another_runs_name_is_damaged():
    other = SPEC.with_(seed=5)
    shutil.copytree(saved().path, runs_dir() / other.key)
    with pytest.raises(ValueError, match=SPEC.key):
        read_record(runs_dir() / other.key)
    with pytest.warns(UserWarning, match="set aside"):
        assert find(other) is None
    assert find(SPEC)


def test_the_first_of_two_equal_runs_stays():
    first = saved()
    second = Store().save(SPEC, build_model("small_cnn", 10), outcome(), RUNTIME, {})
    assert second.digest == first.digest and [folder.name for folder in runs_dir().iterdir()] == [SPEC.key]


@pytest.mark.parametrize("function", ["np.savez_compressed", "Path.write_bytes", "os.replace"])
def test_a_full_disk_names_the_folder_and_leaves_the_store_as_it_was(monkeypatch, function):
    other = SPEC.with_(seed=5)
    saved(other)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(InputError) as error:
        patch.setattr(f"kdutils.runs.records.{function}", full)
        saved()
    assert all(words in str(error.value) for words in (str(runs_dir()), "No space left on device", "KD_RUNS_DIR"))
    assert find(other) and [folder.name for folder in runs_dir().iterdir()] == [other.key]
    assert saved().metric("test") == 50.0


def test_a_disk_that_really_takes_no_more_is_reported_in_the_same_way():
    resource = pytest.importorskip("resource")  # POSIX alone
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))  # the weights take 1.07 MB
    try:
        with pytest.raises(InputError, match="cannot be written.*KD_RUNS_DIR"):
            saved()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(runs_dir().iterdir()) == []


def test_what_cannot_be_read_is_an_error_and_stays_where_it_is(monkeypatch):
    """Nothing is known of a record that the disk does not give: only wrong content is damage."""
    path = saved().path

    def unreadable(*_):
        raise PermissionError(13, "Permission denied", str(path / "history.csv"))

    with monkeypatch.context() as patch, pytest.raises(InputError, match="cannot be read.*Permission denied"):
        patch.setattr("kdutils.runs.records._sha256", unreadable)
        find(SPEC)
    assert [folder.name for folder in runs_dir().iterdir()] == [SPEC.key] and find(SPEC).metric("test") == 50.0


def test_data_that_cannot_be_read_say_nothing_of_a_record(monkeypatch):
    saved()

    def unreadable(name):
        raise InputError(f"{name} cannot be read")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="cifar10 cannot be read|synthetic cannot be"):
        patch.setattr("kdutils.runs.records.is_cached", lambda name: True)
        patch.setattr("kdutils.runs.records.load_dataset", unreadable)
        find(SPEC)
    assert [folder.name for folder in runs_dir().iterdir()] == [SPEC.key] and find(SPEC).metric("test") == 50.0


def test_two_processes_that_finish_the_same_run_at_once_both_go_on(monkeypatch):
    """The quicker one's record comes into its place while the slower one is about to rename its own."""
    rename, first = records.os.replace, []

    def lose(draft, path):
        if not first and str(path).endswith(SPEC.key):
            first.append(True)
            saved()
        return rename(draft, path)

    monkeypatch.setattr("kdutils.runs.records.os.replace", lose)
    assert saved().metric("test") == 50.0 and first
    assert [folder.name for folder in runs_dir().iterdir()] == [SPEC.key]


def test_a_run_that_diverged_is_recorded_as_such():
    none = {"loss": None, "accuracy": None}
    rows = [{"epoch": 1, "train_loss": 2.0, "val_accuracy": 30.0}, {"epoch": 2, "train_loss": float("nan")}]
    lost = dataclasses.replace(outcome(), history=rows, metrics={"val": none, "test": none}, diverged=2)
    record = Store().save(SPEC, network(), lost, RUNTIME, FACTS)
    assert record.diverged and np.isnan(record.metric("test")) and np.isnan(record.metric("val", "loss"))
    assert record.summary["diverged"] == 2 and "best_val" not in record.summary and len(record.history) == 2
    assert not saved(SPEC.with_(seed=5)).diverged and find(SPEC).diverged


def test_a_store_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / "file" / "runs"))
    with pytest.raises(InputError, match="file/runs cannot be written.*KD_RUNS_DIR"):
        find(SPEC)


def test_without_git_the_code_is_known_by_its_sources(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert records._code_version().startswith("sources ")


def git(folder, *words):
    identity = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, env=os.environ | identity)


def test_the_commit_is_named_only_where_the_repository_is_the_packages_own(tmp_path, monkeypatch):
    package = tmp_path / "site" / "kdutils"
    package.mkdir(parents=True)
    (package / "a.py").write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "the user's own")
    monkeypatch.setattr(records, "ROOT", package.parent)  # installed somewhere inside another repository
    assert "commit" not in records._code_version()
    git(package.parent, "init", "-q")
    git(package.parent, "add", "-A")
    git(package.parent, "commit", "-qm", "the package")
    clean = records._code_version()
    assert ", commit " in clean and "changed" not in clean
    (package / "a.py").write_text("a = 2\n")
    assert records._code_version().endswith(", changed since")
