"""What the READMEs say: links that lead somewhere, and numbers that a committed report holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("kdutils", "tests", "reports/reference")
READMES = [ROOT / "README.md", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("README.md"))]
GAIN = re.compile(r"([+−]\d+\.\d+) \[([+−]\d+\.\d+), ([+−]\d+\.\d+)\]")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_links_lead_to_files(readme):
    links = re.findall(r"\]\(([^)#]+)", readme.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (readme.parent / link).exists()] == []


def test_the_front_door_is_short_and_its_numbers_are_those_of_the_reference():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    reports = [ROOT / "reports" / "reference" / name for name in ("quick", "overnight", "overnight_bcd", "overnight_e")]
    files = [report / "results.json" for report in reports]
    chapters = [chapter for file in files for chapter in json.loads(file.read_text())["chapters"].values()]
    gains = [gain for chapter in chapters for gain in chapter["gains"].values()]
    arms = [arm["metrics"]["test"]["accuracy"]["mean"] for chapter in chapters for arm in chapter["arms"].values()]
    known = {_written(gain, digits) for gain in gains for digits in (1, 2)}
    told = GAIN.findall(text)
    assert len(text.splitlines()) < 150 and len(told) >= 5 and set(told) <= known
    accuracies = re.findall(r"(\d+\.\d) % alone", text)
    assert len(accuracies) == 4 and set(accuracies) <= {f"{mean:.1f}" for mean in arms}


def _written(gain: dict, digits: int) -> tuple[str, ...]:
    return tuple(f"{gain[name]:+.{digits}f}".replace("-", "−") for name in ("mean", "low", "high"))
