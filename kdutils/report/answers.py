"""The opening of a report: every published accuracy beside ours, and what distillation gained."""

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from kdutils.data.synthetic import FAMILIES
from kdutils.report.results import Results
from kdutils.report.statistics import BY_CHANCE, Gain, Numbers, with_diverged

_DOCUMENTS = {
    "assignment": "A: four classifiers",
    "binary": "B: binary networks and distillation",
    "teacher-init": "C: the teacher's initialisation",
    "cifar100": "D: CIFAR-100 with a grid",
    "methods": "E: methods of distillation on CIFAR-100",
}
_SPLITS = {"val": "validation", "best val": "validation, best epoch", "test": "test"}


@dataclass(frozen=True)
class Answer:
    """One row: ours (accuracies in percent or, for a gain, percentage points) and the published value, if any."""

    what: str
    images: str
    ours: Numbers
    published: float | None = None
    is_synthetic: bool = False  # ours is on synthetic images, and not compared with values published for CIFAR

    @property
    def difference(self) -> float | None:
        """Ours minus the published value, in percentage points; None if they cannot be compared."""
        if self.is_synthetic or self.published is None or not self.ours.n:
            return None
        return self.ours.mean - self.published

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as texts for a table: what, images, ours, its interval, n, published, our difference."""
        ours, (low, high), sign = self.ours, self.ours.bounds, "+" * isinstance(self.ours, Gain)
        mean = f"{ours.mean:{sign}.2f}" if ours.n else "diverged"
        spread, interval = (f" ± {ours.sd:.2f}", f"[{low:{sign}.2f}, {high:{sign}.2f}]") if ours.n > 1 else ("", "–")
        published = "–" if self.published is None else f"{self.published:.2f}"
        difference = "–" if self.difference is None else f"{self.difference:+.2f}"
        n = str(with_diverged(ours.n, ours.diverged))
        return self.what, self.images, mean + spread, interval, n, published, difference


COLUMNS = ("classifier or gain", "images", "ours (%)", "95% interval", "n", "published (%)", "difference")


def answers(results: Results) -> dict[str, list[Answer]]:
    """Rows by document: its published accuracies in order (except on training images) beside ours, then the gains.

    A report without published values, such as one on one's own data, has all its test accuracies instead. A row that
    several chapters have in common is given once.
    """
    networks, alone, gains = {}, {}, {}  # by document
    for chapter in results.chapters.values():
        for name, arm in chapter.arms.items():
            is_synthetic = arm.spec["data"]["name"] in FAMILIES
            for split, images in _SPLITS.items():
                ours = arm.metrics.get(split, {}).get("accuracy")
                for study, value in ours.published.items() if ours else ():
                    document, _, part = study.partition("/")
                    what = f"{name} ({part.replace('-', ' ')})" if part else name
                    networks.setdefault(document, []).append((part, Answer(what, images, ours, value, is_synthetic)))
            if "test" in arm.metrics:
                row = Answer(name, "test", arm.metrics["test"]["accuracy"])
                alone.setdefault(chapter.study, {}).setdefault(tuple(arm.runs.values()), row)
        for name, gain in chapter.gains.items():
            gains.setdefault(chapter.study, []).append(Answer(name, "test", gain))
    ordered, alone = {}, {} if networks else alone
    for document in dict.fromkeys([*networks, *alone, *gains]):
        beside = sorted(networks.get(document, []), key=lambda found: (found[0], found[1].published))
        rows = [row for _, row in beside] + [*alone.get(document, {}).values()] + gains.get(document, [])
        ordered[_DOCUMENTS.get(document, document)] = list({row.cells: row for row in rows}.values())
    return ordered


def answers_table(found: dict[str, list[Answer]]) -> pd.DataFrame:
    """A table of all rows as texts, each with its document."""
    rows = [(document, *row.cells) for document, rows in found.items() for row in rows]
    return pd.DataFrame(rows, columns=["document", *COLUMNS])


def answers_sentence(found: dict[str, list[Answer]]) -> str:
    """How many gains can be told from zero, and how many of our accuracies are higher than the published ones."""
    rows = [row for rows in found.values() for row in rows]
    beside = [row.difference > 0 for row in rows if row.difference is not None]
    gains = [row.ours for row in rows if isinstance(row.ours, Gain)]
    verdicts = Counter(gain.told for gain in gains)
    differences = (
        f"Paired differences in test accuracy: {verdicts[1]} above zero with the whole 95% interval, {verdicts[-1]} "
        f"below, {verdicts[0]} not to be told from zero. {BY_CHANCE}"
    )
    higher = f"Ours is higher than {sum(beside)} of {len(beside)} published accuracies."
    return " ".join([differences] * bool(gains) + [higher] * bool(beside))


def answers_caption(found: dict[str, list[Answer]]) -> str:
    """The caption of the table and the figure: what they show, and what the gains' intervals are conditional on."""
    gains = [row.ours for rows in found.values() for row in rows if isinstance(row.ours, Gain)]
    conditions = dict.fromkeys(gain.over for gain in gains)
    over = "; ".join(conditions)
    shared = [what for what in ("their views", "one teacher", "their teachers") if what in over]
    if shared and len(conditions) > 1:
        over = f"over seeds that share some of these, as each chapter says: {', '.join(shared)}"
    text = "Ours: mean ± sample SD over n seeds, and the 95% interval of that mean (Student’s t)."
    paired = f" A gain is a paired difference in percentage points, seed by seed, its interval {over}."
    return text + f"{paired} The interval does not cover other test images." * bool(gains)
