"""Two reports side by side, by their `results.json`: which settings differ, and which numbers agree."""

import warnings
from collections import Counter
from statistics import fmean

import pandas as pd
from scipy.stats import ttest_ind, ttest_rel

from kdutils.report.results import Chapter, Numbers, Results
from kdutils.report.statistics import FLAT, spread, with_diverged


def compare_reports(first: Results, second: Results) -> tuple[str, bool]:
    """A comparison of reports A and B as text; True if any interval excludes zero, or if no number is in both."""
    settings, numbers = compare_settings(first, second), compare_numbers(first, second)
    count = Counter(numbers["verdict"])
    told = count["agrees"] + count["differs"]
    counted = (
        f"{count['equal']} numbers are equal, {count['agrees']} agree within their interval, {count['differs']} differ "
        f"(of {told} intervals, about {told / 20:.0f} would exclude zero by chance alone), and {count['no interval']} "
        "have no interval, which takes two runs in each report, and a spread."
    )
    parts = ["Settings, data, weights and code", _text(settings, "The same wherever both reports have them.")]
    parts += ["Numbers: B - A with its 95% interval", _text(numbers.query("verdict != 'equal'"), "")]
    parts += ["No number is in both." if numbers.empty else counted]
    unpaired = {"A": _alone(first, second), "B": _alone(second, first)}
    parts += [f"Only in {name}: {'; '.join(alone)}." for name, alone in unpaired.items() if alone]
    return "\n\n".join(filter(None, parts)), bool(count["differs"]) or numbers.empty


def _text(table: pd.DataFrame, otherwise: str) -> str:
    look = {"tablefmt": "simple", "disable_numparse": True, "maxcolwidths": 60}
    return table.to_markdown(index=False, **look) if len(table) else otherwise


def compare_settings(first: Results, second: Results) -> pd.DataFrame:
    """A table of settings, data, weights and code that differ where both reports have them, and for which arms."""
    ours, theirs, differing = _settings(first), _settings(second), {}
    for place, settings in ours.items():
        other = theirs.get(place, settings)
        for what in dict.fromkeys([*settings, *other]):
            pair = settings.get(what, "–"), other.get(what, "–")
            if pair[0] != pair[1]:
                differing.setdefault((what, *pair), []).append(place)
    rows = []
    for found, places in differing.items():
        rows.append((*found, ", ".join(places[:2]) + f" and {len(places) - 2} more" * (len(places) > 2)))
    return pd.DataFrame(rows, columns=["what", "A", "B", "where"])


def _settings(results: Results) -> dict[str, dict[str, str]]:
    """The settings by place (the report, a chapter, an arm); an arm's include its data, weights, code and seeds."""
    found = {"report": {name: fact for name, fact in results.facts.items() if name not in ("Date", "Code", "Data")}}
    for stem, chapter in results.chapters.items():
        found[stem] = {"setting": chapter.setting}
        for name, arm in chapter.arms.items():
            rests = {"data": arm.data, "weights": arm.weights, "code": arm.code, "seeds": arm.runs}
            spec = pd.json_normalize(arm.spec).iloc[0].map(str)  # nested settings by their path, such as data.views
            found[f"{stem[:2]} {name}"] = dict(spec) | {what: ", ".join(each) for what, each in rests.items()}
    return found


def compare_numbers(first: Results, second: Results) -> pd.DataFrame:
    """A row for each number that both reports have, with its verdict: equal, agrees, differs, or no interval.

    The interval of B - A is Student's for the differences by seed if both have the same seeds, else Welch's.
    """
    rows = {}
    for stem in (stem for stem in first.chapters if stem in second.chapters):
        ours, theirs = _numbers(first.chapters[stem]), _numbers(second.chapters[stem])
        for name in (name for name in ours if name in theirs):
            pair = ours[name], theirs[name]
            same = (name, *(str(numbers.values) for numbers in pair))  # numbers that chapters share appear once
            rows.setdefault(same, (*_verdict(*pair), f"{stem[:2]} {name}", *map(_shown, pair)))
    columns = ["verdict", "B - A", "95% interval", "by", "number", "A", "B"]
    return pd.DataFrame(rows.values(), columns=columns)


def _numbers(chapter: Chapter) -> dict[str, Numbers]:
    """All numbers of a chapter by their name."""
    units = {"accuracy": "accuracy (%)", "loss": "loss (nats)"}
    found = {
        f"{arm}, {split} {units[metric]}": numbers
        for arm, described in chapter.arms.items()
        for split, metrics in described.metrics.items()
        for metric, numbers in metrics.items()
    }
    return found | {f"gain of {name} (points)": gain for name, gain in chapter.gains.items()}


def _shown(numbers: Numbers) -> str:
    return f"{spread(numbers.kept, 3)} (n={with_diverged(numbers.n, numbers.diverged)})"


def _verdict(first: Numbers, second: Numbers) -> tuple[str, str, str, str]:
    """Whether two numbers agree, their difference, its interval, and how the interval was computed."""
    if first.values == second.values:
        return "equal", "–", "–", "–"
    paired = first.values.keys() == second.values.keys()
    pairs = [(first.values[seed], second.values[seed]) for seed in first.values] if paired else []
    whole = [pair for pair in pairs if None not in pair]
    ours, theirs = zip(*whole, strict=True) if whole else (first.kept, second.kept)
    if min(len(ours), len(theirs)) < 2:
        return "no interval", "–", "–", "–"
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # if all differences are equal
        test = ttest_rel(theirs, ours) if whole else ttest_ind(theirs, ours, equal_var=False)
        low, high = test.confidence_interval()
    difference = fmean(theirs) - fmean(ours)
    if not high - low > FLAT:  # without spread there is no interval: few runs may differ equally by chance
        return "no interval", f"{difference:+.3f}", "–", "–"
    verdict = "differs" if low > 0 or high < 0 else "agrees"
    return verdict, f"{difference:+.3f}", f"[{low:+.3f}, {high:+.3f}]", "paired" if whole else "Welch"


def _alone(results: Results, other: Results) -> list[str]:
    """What only `results` has: chapters, and arms and gains of the chapters that both have."""
    found = [stem for stem in results.chapters if stem not in other.chapters]
    for stem in (stem for stem in results.chapters if stem in other.chapters):
        ours, theirs = ({**each.chapters[stem].arms, **each.chapters[stem].gains} for each in (results, other))
        found += [f"{stem[:2]} {name}" for name in ours if name not in theirs]
    return found
