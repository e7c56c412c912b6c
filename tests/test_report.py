"""The report end to end: one command makes it, again takes nothing, and killed goes on to the same numbers."""

from __future__ import annotations

import ast
import base64
import functools
import re
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from chapters import CHAPTERS
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papers import page_texts
from smoke_report import Copy

import kdutils as kd
from kdutils.report import results as kd_results
from kdutils.runs.records import read_record

pytest_plugins = ["smoke_report"]
KEPT = {("11_explore", "table"): {"images", "logits", "confusion", "grid"}}  # what its widgets show
PUBLISHED = """
57.84 63.40 62.43 79.99 78.00 81.18 80.20 83.98 62.25 66.34 81.10 62.80 65.70
1.1739 1.0587 0.5757 0.6967 0.5292 0.604 0.8913 1.3488 1.270 0.950 1.350 1.290
""".split()


@pytest.fixture(scope="module")
def report(smoke):
    """The report's folder."""
    assert smoke.outcome.returncode == 0, smoke.outcome.stdout + smoke.outcome.stderr
    return smoke.reports


@pytest.fixture(scope="module")
def printed(report):
    """The text of report.pdf, page by page, in single spaces."""
    return page_texts(report / "report.pdf")


class Page(HTMLParser):
    """What a page refers to, its captions and the text of its elements."""

    def __init__(self, path: Path):
        super().__init__()
        self.loads, self.links, self.ids, self.tags, self.captions, self._open = [], [], set(), [], [], False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.ids.add(attributes.get("id"))
        self.links += [attributes["href"]] if tag == "a" else []
        self.loads += [
            value
            for name, value in attributes.items()
            if name in ("src", "srcset", "poster", "data", "action", "background", "xlink:href")
            or (name == "href" and tag != "a")
        ]
        if tag == "figcaption":
            self.captions.append("")
            self._open = True

    def handle_endtag(self, tag):
        self._open = self._open and tag != "figcaption"

    def handle_data(self, data):
        if self._open:
            self.captions[-1] += data


def pages(folder):
    return {path.name: Page(path) for path in folder.glob("*.html")}


def shown_in(chapter):
    """The names that a notebook gives its figures and tables, read from its source."""
    source = "\n".join(
        cell.source
        for cell in nbformat.read(Path(kd.__file__).parents[1] / "notebooks" / f"{chapter}.ipynb", as_version=4).cells
        if cell.cell_type == "code"
    )
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    found = {kind: {call.args[1].value for call in calls if call.func.attr == kind} for kind in ("figure", "table")}
    opened = any(call.func.attr == "open_chapter" for call in calls)  # which shows the chapter's setting
    return found | {"table": found["table"] | ({"setting"} if opened else set())}


def state(*folders):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


# What one command makes


def test_the_command_says_where_the_report_is(smoke, report):
    lines = smoke.outcome.stdout.splitlines()
    assert lines[-1] == f"The report: {report / 'index.html'}"
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("notebook ")) + 1 :][: len(CHAPTERS)]
    assert [line.split()[0] for line in table] == list(CHAPTERS) and all(line.endswith("done") for line in table)


def test_every_chapter_is_a_notebook_a_page_and_a_pdf(report):
    for chapter in CHAPTERS:
        notebook = nbformat.read(report / f"{chapter}.ipynb", as_version=4)
        nbformat.validate(notebook)
        assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source)
        assert "<h1" in (report / f"{chapter}.html").read_text()
        assert page_texts(report / f"{chapter}.pdf")
    assert not (report / "failed").exists()


def test_a_study_knows_the_runs_of_its_chapters(smoke, report):
    def is_like(spec):  # whatever cell was chosen
        method = spec.distillation and spec.distillation.with_(method=kd.KD(temperature=1.0, kd_weight=0.5))
        return (spec.with_(distillation=method) if len(spec.teachers) < 2 else spec.with_(distillation=None)).key

    for chapter in CHAPTERS:
        about = nbformat.read(report / f"{chapter}.ipynb", as_version=4).metadata["kdutils"]
        study = kd.STUDIES[about["study"]]
        plan = kd.open_study(about["study"], "smoke", "synthetic", "auto" if study.model_fields.get("init") else None)
        known = {is_like(spec) for arms in plan.all_arms() for specs in arms.values() for spec in specs}
        used = {is_like(read_record(smoke.runs / key).spec) for key in about["runs"]}
        assert used <= known


def test_the_parameters_arrived(report):
    for chapter in CHAPTERS:
        cells = nbformat.read(report / f"{chapter}.ipynb", as_version=4).cells
        injected = next(cell.source for cell in cells if "injected-parameters" in cell.metadata.get("tags", []))
        assert 'profile = "smoke"' in injected and 'dataset = "synthetic"' in injected


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_figure_and_table_of_a_chapter_is_a_file(report, chapter):
    names = shown_in(chapter)
    for name in names["figure"]:
        png = (report / "figures" / f"{chapter[:2]}_{name}.png").read_bytes()
        width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
        assert png.startswith(b"\x89PNG") and width > 300 and height > 200
        svg = ElementTree.parse(report / "figures" / f"{chapter[:2]}_{name}.svg").getroot()
        assert svg.tag.endswith("svg")
        assert float(svg.get("width").removesuffix("pt")) <= 612, "a wider one would scroll in a cell of JupyterLab"
    for name in names["table"]:
        assert len(pd.read_csv(report / "tables" / f"{chapter[:2]}_{name}.csv"))
    for folder, kind in (("figures", "figure"), ("tables", "table")):
        kept = KEPT.get((chapter, kind), set())
        assert {path.stem[3:] for path in (report / folder).glob(f"{chapter[:2]}_*")} == names[kind] | kept


def test_pages_load_nothing_from_a_network(report):
    for name, page in pages(report).items():
        assert "script" not in page.tags and "iframe" not in page.tags and "link" not in page.tags
        outside = [
            address
            for address in page.loads
            if not re.match(r"data:|figures/[\w.]+$" if name == "index.html" else "data:image/", address)
        ]
        assert outside == [], name
        source = (report / name).read_text().replace("http://www.w3.org/1998/Math/MathML", "")
        source = re.sub(r'<a href="https://[^"]*"', "<a", source)  # a reader follows it, the page does not
        assert re.findall(r"(?:https?:|url\(|@import|[\"']//)\S{0,40}", source) == [], name


def test_embedded_images_load_nothing_either(report):
    for name, page in pages(report).items():
        for kind, content in re.findall(r"data:image/([\w+]+);base64,(\S+)", " ".join(page.loads)):
            if kind == "svg+xml":
                references = re.findall(
                    r"""(?:href|src)=["']([^"']*)|url\(["']?([^"')]*)""", base64.b64decode(content).decode()
                )
                assert all((a or b).startswith(("#", "data:")) for a, b in references), name


def test_every_link_leads_somewhere(report):
    found = pages(report)
    for name, page in found.items():
        for link in (link for link in page.links if not link.startswith("https://")):
            file, _, anchor = link.partition("#")
            assert (report / unquote(file or name)).is_file(), (name, link)
            assert not anchor or unquote(anchor) in found[file or name].ids, (name, link)


def test_an_answer_stands_under_every_question_and_on_the_index(report):
    index = " ".join((report / "index.html").read_text().split())
    for chapter in CHAPTERS:
        notebook = nbformat.read(report / f"{chapter}.ipynb", as_version=4)
        answers = [
            (place, output.data["text/plain"])
            for place, cell in enumerate(notebook.cells)
            for output in cell.get("outputs", [])
            if output.get("metadata", {}).get("kdutils", {}).get("kind") == "answer"
        ]
        ((place, text),) = answers
        assert "open_chapter" in notebook.cells[place].source and not text.startswith("**Answer.** It is computed")
        assert re.search(r"\d", text)
    assert index.count("<strong>Answer.</strong>") == len(CHAPTERS)


def test_the_index_leads_to_everything(report):
    links = {unquote(link) for link in pages(report)["index.html"].links}
    files = {
        path.relative_to(report).as_posix()
        for pattern in ("*.pdf", "[01]*.*", "results.json", "figures/*.svg", "tables/*.csv")
        for path in report.glob(pattern)
    }
    assert files <= links


def test_every_caption_says_that_the_data_are_synthetic(report):
    count, illustrations = 0, 0
    for chapter in CHAPTERS:
        captions = [" ".join(caption.split()) for caption in pages(report)[f"{chapter}.html"].captions]
        assert len(captions) == sum(map(len, shown_in(chapter).values()))
        own = {
            "05": "64 training, 30 validation and 60 test images",
            "06": "64 training, 30 validation and 60 test images",
            "07": "64 training and 60 test images",
            "08": "64 training, 32 validation (later trained on) and 60 test images",
        }
        sizes = own.get(chapter[:2], "64 training, 32 validation and 60 test images")
        others = [
            caption
            for caption in captions
            if f"Synthetic data: {sizes}" not in caption or "profile smoke" not in caption
        ]
        assert [caption for caption in others if "An illustration: no image and no run" not in caption] == []
        count, illustrations = count + len(captions), illustrations + len(others)
    assert count > 20
    assert illustrations == 13, "of loss, head, set-up, targets, gradients, means, signs, estimators and pairs alone"


def test_the_report_says_what_it_holds_for(report, printed):
    whole, index = " ".join(printed), " ".join((report / "index.html").read_text().split())
    for text in (whole, index):
        for words in ("synthetic data (digest", "smoke", "random weights", "torch", "Python", "cores"):
            assert words in text, words
    for text in (printed[0], index):
        assert "Knowledge distillation" in text and "Nothing made here is a result on CIFAR" in text
    assert re.search(r"Date \d+ \w+ 20\d\d", whole)


def test_the_report_opens_with_its_answers(report, printed):
    index = (report / "index.html").read_text()
    table = pd.read_csv(report / "tables" / "answers.csv", dtype=str)
    assert table["document"].nunique() == 5 and {"62.43", "70.20", "81.00", "56.39"} <= set(table["published (%)"])
    gains = table["classifier or gain"].str.contains(" against ")
    assert gains.sum() > 10 and table["95% interval"][gains].str.match(r"\[[+-]").all()
    assert index.index("figures/answers.svg") < index.index("<table") < index.index("<article")
    assert index.count("<details") == index.count("<details>") + len(CHAPTERS) and "<details open" not in index
    assert "Paired differences in test accuracy" in printed[0]
    assert set(table["difference"]) == {"–"} and "Ours is higher" not in printed[0]  # synthetic images
    assert "published (%)</th>" in index and "difference</th>" not in index
    opening = " ".join(printed[:4]).replace("−", "-")
    assert [value for value in table["ours (%)"].str.split().str[0] if value not in opening] == []


def test_the_results_hold_what_the_tables_show(report):
    results = kd_results.read_results(report)
    assert list(results.chapters) == [chapter for chapter in CHAPTERS if chapter not in ("00_data", "11_explore")]
    for stem, chapter in results.chapters.items():
        shown = [pd.read_csv(path, dtype=str) for path in (report / "tables").glob(f"{stem[:2]}_*.csv")]
        for table in (table for table in shown if {"classifier", "n", "test (%)"} <= set(table)):
            for row in table.to_dict("records"):
                numbers = chapter.arms[row["classifier"]].metrics["test"]["accuracy"]
                assert row["test (%)"].split()[0] == f"{numbers.mean:.2f}" and row["n"] == str(numbers.n)
        for table in (table for table in shown if {"95% CI", "against"} <= set(table)):
            for row in table.to_dict("records"):
                gain = chapter.gains[f"{row['classifier']} against {row['against']}"]
                assert row["95% CI"] == f"[{gain.low:+.2f}, {gain.high:+.2f}]"


def test_the_pdf_is_one_course_report(report, printed):
    whole = " ".join(printed)
    assert "Contents" in " ".join(printed[:4])
    for path in report.glob("*.html"):
        title = re.search(r"<h1[^>]*>(.*?)</h1>", path.read_text(), re.DOTALL)[1]
        assert re.sub(r"\s+", " ", title) in whole
    for kind in ("Figure", "Table"):
        numbers = [int(number) for number in re.findall(rf"\b{kind} (\d+)[.:]", whole)]
        assert numbers == list(range(1, max(numbers) + 1)) and len(numbers) == sum(
            len(shown_in(chapter)[kind.lower()]) for chapter in CHAPTERS
        )


def test_ours_stand_beside_the_published_values(report, printed):
    tables = pd.concat(
        [
            pd.read_csv(report / "tables" / f"09_{name}.csv", dtype=str)
            for name in ("published", "published_one", "published_two")
        ]
    )
    assert sorted(tables["published"]) == sorted(PUBLISHED)
    whole = " ".join(printed)
    assert [value for value in PUBLISHED if not re.search(rf"(?<![\d.]){re.escape(value)}(?![\d.]\d)", whole)] == []
    assert set(tables["difference"]) == {"–"}  # ours are of synthetic images
    assert "no difference from them says anything about synthetic images" in whole


def test_studies_c_and_d_stand_beside_their_published_values(report, printed):
    whole = " ".join(printed)
    for chapter, arms in (("07", {"79.48", "87.54", "67.51", "75.98", "81.00"}), ("08", {"78.33", "53.72", "56.39"})):
        table = pd.read_csv(report / "tables" / f"{chapter}_published.csv", dtype=str)
        assert set(table["published"]) == arms and all(value in whole for value in arms)
        assert set(table["difference"]) == {"–"}
    assert "a difference of 13.49 points; its text claims more than 15 %" in whole
    for said in ("other synthetic images", "ResNet18 for ResNet32x4", "ResNet18 for ResNet101"):
        assert said in whole


def test_all_cells_of_the_grid_read_one_table_and_all_students_of_the_last_training_another(smoke, report):
    taught = {
        key: summary["teachers"]
        for key, summary in smoke.summaries().items()
        if key.startswith("cnn4") and summary["teachers"]
    }
    assert len(taught) >= 5 and len({tuple(teachers.items()) for teachers in taught.values()}) == 2
    teachers = {teacher for summary in smoke.summaries().values() for teacher in summary["teachers"]}
    tables = [path.name for path in (smoke.runs / "tables").iterdir() if "-features-" not in path.name]
    assert len(tables) == len(teachers)


def test_the_tables_hold_what_the_records_hold(smoke, report, printed):
    specs = {path.parent.name: path.read_text() for path in smoke.runs.glob("[a-z]*/spec.json")}
    alone = [
        s["metrics"]["test"]["accuracy"]
        for key, s in smoke.summaries().items()
        if key.startswith("small_cnn") and not s["teachers"]
    ]
    assert len(alone) == 2 and len(specs) == len(smoke.summaries())
    expected = f"{np.mean(alone):.2f} ± {np.std(alone, ddof=1):.2f}"
    rows = pd.read_csv(report / "tables" / "09_classifiers.csv").set_index("classifier")
    assert (rows.loc["small CNN", "test (%)"], rows.loc["small CNN", "n"]) == (expected, 2)
    assert expected in " ".join(printed)
    assert len(rows) == 7  # four kinds: alone, fine-tuned, one teacher, two teachers


def test_students_name_their_teachers_which_are_recorded(smoke, report):
    taught = [summary["teachers"] for key, summary in smoke.summaries().items() if summary["teachers"]]
    assert {len(teachers) for teachers in taught} == {1, 2}
    assert {teacher for teachers in taught for teacher in teachers} <= smoke.summaries().keys()


def test_nothing_on_disk_is_pickled_or_half_written(smoke, report):
    names = [path.relative_to(folder).as_posix() for folder in (smoke.runs, report) for path in folder.rglob("*")]
    assert [name for name in names if re.search(r"\.(pt|pth|pkl|pickle)$|\.draft|\.partial|(^|/)\.", name)] == []


# Again


def test_the_same_command_again_takes_nothing(smoke, report):
    before = state(smoke.runs, report)
    again = smoke.run(*smoke.command)
    assert again.returncode == 0 and again.stdout.count("unchanged") == len(CHAPTERS)
    assert state(smoke.runs, report) == before


# Killed


def wait_for(pattern: str, folder: Path, process: subprocess.Popen, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not any(folder.glob(pattern)):
        assert process.poll() is None and time.monotonic() < end, f"{pattern} never came"
        time.sleep(0.002)


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass


RUNS = """
import kdutils as kd
data = kd.DataSpec(name="synthetic", train_size=48, val_size=20, test_size=30, views=3)
specs = [kd.RunSpec(data=data, model=kd.ModelSpec(name="small_cnn"), epochs=100, seed=seed) for seed in (0, 1)]
records = kd.run_all(specs)
"""  # seconds, in which there are a hundred checkpoints


@pytest.fixture(scope="module")
def killed(tmp_path_factory, data_folder):
    """A copy in a strange folder, its runs in a relative one, whose command was killed within runs and then repeated.

    It tells the processes of the killed command, which of them were left, what was there, and the second outcome.
    """
    copy = Copy(tmp_path_factory.mktemp("killed") / "a b #{x}", data_folder)
    copy.runs, copy.reports = copy.root / "my runs", copy.root / "reports" / "quick"
    tagged = new_code_cell('dataset = "auto"', metadata={"tags": ["parameters"]})
    chapter = new_notebook(cells=[new_markdown_cell("# A chapter"), tagged, new_code_cell(RUNS)])
    nbformat.write(chapter, copy.root / "notebooks" / "12_runs.ipynb")
    command = ("run", "./notebooks/12_runs.ipynb", "--dataset", "synthetic")
    alone = {"KD_WORKERS": "1", "OMP_NUM_THREADS": "1"}  # workers compute as this, and take seconds to start
    copy.again = functools.partial(copy.run, *command, KD_RUNS_DIR="my runs", **alone)
    process = copy.start(*command, KD_RUNS_DIR="my runs", KD_CHECKPOINT_SECONDS="0")
    wait_for("*.partial/checkpoint.safetensors", copy.runs, process)
    family = psutil.Process(process.pid).children(recursive=True)
    copy.family = [" ".join(member.cmdline()) for member in family]
    process.kill()  # the command alone: nothing of it may go on
    process.wait()
    copy.left = psutil.wait_procs(family, timeout=60)[1]
    kill(copy.left)
    copy.begun = {path.parent.stem for path in copy.runs.glob("*.partial/checkpoint.safetensors")}
    copy.made = [*copy.summaries(), *copy.reports.glob("*")]
    half = copy.runs / f".{min(copy.begun)}-half"  # and in the middle of a write
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half of it")
    copy.outcome = copy.again()
    return copy


def test_a_killed_command_takes_its_processes_along(killed):
    assert any("ipykernel" in command for command in killed.family)
    assert sum("multiprocessing" in command for command in killed.family) > 2  # workers, and what they are forked from
    assert killed.left == []


def test_given_again_it_goes_on_to_the_same_numbers(killed):
    assert killed.outcome.returncode == 0, killed.outcome.stdout + killed.outcome.stderr
    exec(RUNS, undisturbed := {})
    metrics = {record.spec.key: record.summary["metrics"] for record in undisturbed["records"]}
    assert killed.begun and killed.begun <= metrics.keys() and killed.made == []
    assert {key: summary["metrics"] for key, summary in killed.summaries().items()} == metrics
    assert not list(killed.runs.glob("*.partial"))


def test_relative_folders_hold_from_where_the_command_is_given(killed):
    assert list(killed.root.parent.rglob("my runs")) == [killed.runs]
    assert (killed.reports / "12_runs.pdf").is_file()
    assert " done\n" in killed.outcome.stdout and " unchanged\n" in killed.again().stdout
