"""The settings: read at one place, checked, and the same for every process whatever its folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kdutils.data.datasets import own_datasets
from kdutils.errors import InputError
from kdutils.settings import ROOT, absolute, pin_settings, settings, write_atomic

NAMES = "DATA_DIR RUNS_DIR WORKERS SCHEDULER CHECKPOINT_SECONDS REPORT_DIR CHAPTER USED_RUNS".split()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """An environment without `KD_*`, as it was again afterwards."""
    for name in NAMES:
        monkeypatch.setenv(f"KD_{name}", "")
    monkeypatch.setenv("TMPDIR", "")


def test_empty_means_not_set():
    found = settings()
    assert (found.data_dir, found.runs_dir) == (ROOT / "data", ROOT / "runs")
    assert (found.workers, found.scheduler, found.checkpoint_seconds) == (None, None, 60.0)
    assert (found.report_dir, found.chapter, found.used_runs) == (None, "", None)


@pytest.mark.parametrize("name", ["runs", "./runs/", "../x/runs", "a b", "#1", "{x}", "$HOME", "é"])
def test_folders_hold_from_where_the_command_was_given(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("DATA_DIR", "RUNS_DIR", "REPORT_DIR", "USED_RUNS"):
        monkeypatch.setenv(f"KD_{variable}", name)
    pin_settings()
    elsewhere = "from kdutils.settings import settings as s; print(s().data_dir, s().runs_dir, sep='\\n')"
    command = [sys.executable, "-X", "utf8", "-c", elsewhere]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines() == [str(tmp_path / name)] * 2
    monkeypatch.chdir("/")
    assert settings().report_dir == settings().used_runs == tmp_path / name


def test_a_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KD_RUNS_DIR", "~/runs")
    assert settings().runs_dir == absolute("~/runs") == tmp_path / "runs"


def test_only_what_is_set_is_pinned(monkeypatch):
    monkeypatch.setenv("KD_WORKERS", "3")
    pin_settings(scheduler="tcp://[::1]:8786")
    assert {name: os.environ[f"KD_{name}"] for name in NAMES if os.environ[f"KD_{name}"]} == {
        "WORKERS": "3",
        "SCHEDULER": "tcp://[::1]:8786",
    }


def test_temporary_files_of_all_processes_lie_in_one_folder(tmp_path, monkeypatch):
    (tmp_path / "t {x} #").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "t {x} #")
    monkeypatch.setattr(tempfile, "tempdir", None)
    pin_settings()
    assert os.environ["TMPDIR"] == str(tmp_path / "t {x} #")


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("WORKERS", "x", "valid integer"),
        ("WORKERS", "-1", "greater than 0"),
        ("CHECKPOINT_SECONDS", "inf", "finite number"),
        ("CHECKPOINT_SECONDS", "1 s", "valid number"),
        ("SCHEDULER", "tcp://host", "such as tcp://host:8786"),
        ("SCHEDULER", "tcp://host:99999", "such as tcp://host:8786"),
        ("SCHEDULER", "http://host:80", "such as tcp://host:8786"),
        ("RUNS_DIR", "~nobody-here/runs", "no such home"),
    ],
)
def test_a_value_that_cannot_be_is_one_sentence_that_names_it(name, value, allowed, monkeypatch):
    monkeypatch.setenv(f"KD_{name}", value)
    for function in (settings, pin_settings):
        with pytest.raises(InputError) as refused:
            function()
        said = str(refused.value)
        assert said.startswith(f"KD_{name}: ") and allowed in said and value in said and "\n" not in said


def test_an_empty_scheduler_given_by_hand_is_refused():
    with pytest.raises(InputError, match="KD_SCHEDULER: .*such as tcp://host:8786.*''"):
        pin_settings(scheduler="")


def test_a_folder_that_another_process_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    path, write = tmp_path / "run.partial" / "checkpoint", Path.write_bytes

    def removed(draft, content):
        monkeypatch.setattr(Path, "write_bytes", write)
        draft.parent.rmdir()
        return write(draft, content)

    monkeypatch.setattr(Path, "write_bytes", removed)
    assert write_atomic(path, b"one").read_bytes() == b"one" and list(path.parent.iterdir()) == [path]


def test_what_is_no_file_is_left_where_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # as a device, such as /dev/null
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match=f"{name} is there and is no file"):
            write_atomic(tmp_path / name, b"one")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_may_not_be_entered_is_one_sentence(tmp_path, monkeypatch, capsys):
    def refused(self):
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch, pytest.raises(InputError, match="cannot be written .Permission denied"):
        patch.setattr(Path, "exists", refused)
        write_atomic(tmp_path / "a" / "b.txt", b"one")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: refused(self))
    with pytest.raises(InputError, match="Permission denied.*: see to its permissions"):
        own_datasets()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a {x} #.txt"
    assert write_atomic(path, b"one") == path and path.read_bytes() == b"one"

    def full(self, content):
        Path(self).touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left") as refused:
        patch.setattr(Path, "write_bytes", full)
        write_atomic(path, b"two")
    assert str(path.parent) in str(refused.value)
    assert path.read_bytes() == b"one" and list(path.parent.iterdir()) == [path]
