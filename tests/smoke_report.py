"""The whole command in a copy of the project, without network; one smoke report serves all tests that read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

PROJECT = Path(__file__).parents[1]


class Copy:
    """A copy of the project's sources in `root`, with a run store beside them."""

    command = ("report", "--profile", "smoke", "--dataset", "synthetic")

    def __init__(self, root: Path, data: Path):
        self.root, self.runs, self.reports = root / "project", root / "runs", root / "project" / "reports" / "smoke"
        if not self.root.exists():
            self._fill()
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KD_") and name.lower() != "no_proxy"
        } | {
            "KD_DATA_DIR": str(data),
            "KD_RUNS_DIR": str(self.runs),
            "TORCH_HOME": str(root / "torch"),
            **{
                name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
            },  # refuses at once
        }

    def _fill(self) -> None:
        for folder in ("kdutils", "notebooks"):
            shutil.copytree(PROJECT / folder, self.root / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        (self.root / "reports").mkdir()
        for file in ("pyproject.toml", "reports/published.csv"):
            shutil.copy(PROJECT / file, self.root / file)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """The command, begun; its output is thrown away."""
        return subprocess.Popen(
            self._command(arguments),
            cwd=self.root,
            env=self._environment | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """The command, ended."""
        return subprocess.run(
            self._command(arguments),
            cwd=self.root,
            env=self._environment | environment,
            capture_output=True,
            text=True,
            timeout=3600,
        )

    def summaries(self) -> dict[str, dict]:
        """Every finished run's summary by its key."""
        return {path.parent.name: json.loads(path.read_text()) for path in self.runs.glob("[a-z]*/summary.json")}

    @staticmethod
    def _command(arguments):
        return [sys.executable, "-m", "kdutils", *arguments]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, data_folder):
    """A copy of the project in which the smoke report was made on the synthetic data."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"  # one for all processes
    told = root / "outcome.json"
    with FileLock(f"{root}.lock"):
        copy = Copy(root, data_folder)
        if not told.exists():
            done = copy.run(*copy.command)
            told.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    copy.outcome = subprocess.CompletedProcess(copy.command, *json.loads(told.read_text()))
    return copy
