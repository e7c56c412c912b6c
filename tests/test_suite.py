"""Notebooks run headlessly: parameters arrive, mistakes are errors, failures are told and cost nobody else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kdutils import suite
from kdutils.__main__ import main
from kdutils.data import load_dataset
from kdutils.models import build_model
from kdutils.specs import InputError
from kdutils.suite import execute, find_notebook, make_order, notebook_parameters

VALUES = {"profile": "smoke", "dataset": "synthetic", "init": "random"}
OFFERED = 'profile = "quick"\ndataset = "auto"'


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project of its own: notebooks/, reports/ and a package of one file."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "kdutils").mkdir()
    (tmp_path / "kdutils" / "losses.py").write_text("one")
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def write(name: str, *sources: str, parameters: tuple[str, ...] = (OFFERED,)) -> Path:
    """A notebook of tagged cells `parameters` and code cells `sources`."""
    tagged = [new_code_cell(source, metadata={"tags": ["parameters"]}) for source in parameters]
    cells = [new_markdown_cell(f"# Chapter {name}\n\nWhat is asked?"), *tagged, *map(new_code_cell, sources)]
    path = suite.NOTEBOOKS / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}), path)
    return path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def printed(path: Path) -> list[str]:
    outputs = (output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", []))
    return "".join(output.get("text", "") for output in outputs).splitlines()


# The cell of parameters


def test_parameters_are_read_with_their_defaults():
    path = write("01_a", parameters=('profile = "quick"  # how much\nseeds = None\nteacher_seeds = [0, -1]\nkd_weight = 0.5',))
    assert notebook_parameters(path) == {"profile": "quick", "seeds": None, "teacher_seeds": [0, -1], "kd_weight": 0.5}


@pytest.mark.parametrize("cells", [(), (OFFERED, OFFERED)])
def test_exactly_one_cell_must_be_tagged(cells):
    with pytest.raises(InputError, match=f"01_a.ipynb has {len(cells)} cells tagged 'parameters': exactly one"):
        notebook_parameters(write("01_a", parameters=cells))


@pytest.mark.parametrize("source", ["import os", "seeds = list(range(3))", "seeds = default", "a, b = 1, 2", "a = b = 1", "seeds: list = [1]", "seeds += [1]", "print('hello')", "seeds = ["])
def test_parameters_are_plain_values(source):
    with pytest.raises(InputError, match="parameters.*01_a.ipynb.*name = value"):
        notebook_parameters(write("01_a", parameters=(source,)))


def test_a_notebook_may_not_offer_what_the_suite_does_not_know(project):
    with pytest.raises(InputError, match="unknown parameter 'epochs': allowed are profile, dataset,"):
        execute(write("01_a", parameters=("epochs = 3",)), VALUES, project / "reports")
    assert files(project / "reports") == set()


# What is ordered


def test_a_notebook_is_found_by_number_name_or_path(monkeypatch):
    path = write("03_one_teacher")
    write("04_two_teachers")
    monkeypatch.chdir(suite.NOTEBOOKS)
    assert {find_notebook(name) for name in ("03", "03_one_teacher", "03_one_teacher.ipynb", str(path))} == {path}


@pytest.mark.parametrize("name", ["3", "one", "", "05", "03_one"])
def test_an_unknown_notebook_is_an_error_that_names_those_there_are(name):
    write("03_one_teacher"), write("04_two_teachers")
    with pytest.raises(InputError, match=f"'{name}'.*03_one_teacher, 04_two_teachers"):
        find_notebook(name)


def test_an_order_takes_all_notebooks_in_their_order():
    paths = [write(name) for name in ("02_b", "00_a", "09_c")]
    assert make_order(VALUES).notebooks == sorted(paths)
    assert make_order(VALUES, ["09", "00"]).notebooks == [paths[2], paths[1]]
    assert make_order(VALUES).folder == suite.ROOT / "reports" / "smoke"


def test_settings_are_for_one_notebook_or_for_all():
    for name in ("00_a", "03_b"):
        write(name, parameters=(f"{OFFERED}\ntemperature = None\nseeds = None",))
    order = make_order(VALUES, settings=["03.temperature=4", "03_b.seeds=[0, 1]", "temperature=2"])
    assert order.own_values == {"03_b": {"temperature": 4, "seeds": [0, 1]}}
    assert order.values == VALUES | {"temperature": 2}


@pytest.mark.parametrize(
    "setting, message",
    [
        ("03.temperature=4", "03_b has no parameter 'temperature': allowed are profile, dataset"),
        ("tempreture=4", "unknown parameter 'tempreture': allowed are .*temperature"),
        ("03.profile", "cannot read '03.profile': write notebook.name=value"),
        ("=4", "cannot read '=4'"),
        ("profile=fast", "profile: input should be 'smoke', 'quick', 'overnight' or 'paper' .got 'fast'"),
        ("temperature=4", "temperature"),  # known, but no notebook of the order has it
    ],
)
def test_a_setting_that_reaches_nothing_is_an_error(setting, message):
    write("03_b")
    with pytest.raises(InputError, match=message):
        make_order(VALUES, settings=[setting])


def test_a_setting_of_a_notebook_that_is_not_run_is_an_error():
    write("00_a"), write("03_b")
    with pytest.raises(InputError, match="03_b"):
        make_order(VALUES, ["00"], ["03.profile=paper"])


def test_every_chapter_is_given_its_own_studys_data(cifar, data_folder, monkeypatch):
    """CIFAR-10 lies here, CIFAR-100 does not, and the synthetic set is built."""
    for name in ("00_a", "08_c", "09_d"):
        write(name)
    with monkeypatch.context() as patch:
        patch.setenv("KD_DATA_DIR", str(data_folder))
        load_dataset("synthetic")
    shutil.copytree(data_folder / "synthetic", cifar.parent / "synthetic")
    order = make_order({"profile": "smoke", "dataset": "auto", "init": "random"})
    assert [order.values_of(path)["dataset"] for path in order.notebooks] == ["cifar10", "synthetic", "cifar10"]
    assert make_order({"profile": "smoke", "dataset": "auto", "init": "random"}, ["08"]).values["dataset"] == "synthetic"
    own = make_order({"profile": "smoke", "dataset": "cifar", "init": "random"}, ["00", "09"], ["09.dataset=synthetic"])
    assert [own.values_of(path)["dataset"] for path in own.notebooks] == ["cifar10", "synthetic"]
    with pytest.raises(InputError, match="CIFAR-100.*cannot be downloaded"):
        make_order({"profile": "smoke", "dataset": "cifar", "init": "random"})
    shutil.copytree(cifar, cifar.parent / "cifar100")
    (cifar.parent / "cifar100" / "classes.txt").write_text("".join(f"class {number}\n" for number in range(100)))
    order = make_order({"profile": "smoke", "dataset": "auto", "init": "random"})
    assert [order.values_of(path)["dataset"] for path in order.notebooks] == ["cifar10", "cifar100", "cifar10"]
    with pytest.raises(InputError, match="about CIFAR-100: dataset must be"):
        make_order({"profile": "smoke", "dataset": "cifar10", "init": "random"})


def test_a_teachers_file_is_found_from_where_the_command_is_given(project, monkeypatch):
    monkeypatch.chdir(project)
    torch.save(build_model("resnet32x4", 10).state_dict(), project / "teacher.pth")
    write("08_c", parameters=(f"{OFFERED}\nteacher_file = None",))
    for settings in (["08.teacher_file=teacher.pth"], ["teacher_file=teacher.pth"]):
        order = make_order(VALUES, settings=settings)
        assert order.values_of(order.notebooks[0])["teacher_file"] == str(project / "teacher.pth")


# Running


def test_parameters_arrive_and_the_result_is_kept(project):
    offered = f'{OFFERED}\ntemperature = None\nseeds = [5]'
    shows = "import os\nprint(profile, dataset, temperature, seeds)\nprint(os.getcwd(), os.environ['KD_REPORT_DIR'], os.environ['KD_CHAPTER'], sep='\\n')"
    before = dict(os.environ)
    result = execute(write("01_a", shows, parameters=(offered,)), VALUES | {"temperature": 4, "kd_weight": 0.5}, project / "reports")
    assert (result.error, result.reused) == (None, False) and result.seconds > 0
    assert printed(project / "reports" / "01_a.ipynb") == ["smoke synthetic 4 [5]", str(project / "notebooks"), str(project / "reports"), "01_a"]
    assert files(project / "reports") == {"01_a.ipynb"}
    assert dict(os.environ) == before


def test_a_failing_notebook_is_told_and_kept_aside_and_the_others_are_published(project, capsys):
    folder = project / "reports" / "smoke"
    for old in ("01_bad.ipynb", "01_bad.html", "01_bad.pdf", "figures/01_curves.svg", "tables/01_metrics.csv", "figures/00_images.svg"):
        (folder / old).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).write_text("an earlier version")
    write("01_bad", "print('before')", "raise ValueError('the loss is\\nnot finite')", "print('never')")
    write("02_good", "print('fine')")
    assert main(["report", "--profile", "smoke", "--dataset", "synthetic", "-p", "init=random"]) == 1
    assert files(folder) == {"02_good.ipynb", "02_good.html", "02_good.pdf", "failed/01_bad.ipynb", "figures/00_images.svg", "index.html", "report.pdf"}
    table = capsys.readouterr().out.partition("notebook ")[2]
    assert "ValueError: the loss is" in next(line for line in table.splitlines() if line.startswith("01_bad"))
    assert next(line for line in table.splitlines() if line.startswith("02_good")).endswith("done")
    assert printed(folder / "failed" / "01_bad.ipynb")[0] == "before"
    index = " ".join((folder / "index.html").read_text().split())
    assert "ValueError: the loss is" in index and 'href="02_good.html"' in index and 'href="01_bad.html"' not in index


def test_a_cell_that_takes_too_long_is_told(project, monkeypatch):
    monkeypatch.setattr(suite, "_CELL_SECONDS", 1)
    result = execute(write("01_a", "import time\ntime.sleep(600)"), VALUES, project / "reports")
    assert "longer than 1 s" in result.error and result.seconds < 300
    assert files(project / "reports") == {"failed/01_a.ipynb"}
    assert not [process for process in psutil.Process().children(recursive=True) if "ipykernel" in " ".join(process.cmdline())]


def test_a_kernel_that_dies_is_told(project):
    result = execute(write("01_a", "import os\nos._exit(9)"), VALUES, project / "reports")
    assert "kernel died" in result.error
    assert files(project / "reports") == {"failed/01_a.ipynb"}


def test_a_kernel_that_does_not_start_is_told(project, monkeypatch):
    def no_kernel(source, target, *_, **__):
        Path(target).write_text(Path(source).read_text())
        raise RuntimeError("Kernel didn't respond in 60 seconds")

    monkeypatch.setattr(suite.papermill, "execute_notebook", no_kernel)
    assert "didn't respond in 60 seconds" in execute(write("01_a", "1"), VALUES, project / "reports").error
    assert files(project / "reports") == {"failed/01_a.ipynb"}


# What need not be run again


@pytest.fixture
def executed(monkeypatch, project):
    """Stands in for papermill and the export, which take seconds: names of the notebooks that were executed."""
    names = []

    def execute_notebook(source, target, parameters, **_):
        names.append(Path(source).stem)
        if (project / "runs" / "small_cnn-0123").is_dir():
            Path(os.environ["KD_USED_RUNS"]).write_text("small_cnn-0123\n")
        Path(target).write_text(Path(source).read_text())

    monkeypatch.setattr(suite.papermill, "execute_notebook", execute_notebook)
    return names


def test_what_is_unchanged_is_reused(project, executed):
    path = write("01_a", "1")
    assert not execute(path, VALUES, project / "reports").reused
    again = execute(path, VALUES, project / "reports")
    assert again.reused and again.error is None and executed == ["01_a"]


def test_a_parameter_that_the_notebook_has_not_changes_nothing(project, executed):
    path = write("01_a", "1")
    execute(path, VALUES, project / "reports")
    assert execute(path, VALUES | {"temperature": 8}, project / "reports").reused


@pytest.mark.parametrize("change", ["notebook", "parameter", "package", "published", "run record"])
def test_what_changed_is_run_again(project, executed, change):
    values, path = dict(VALUES), write("01_a", "1")
    (project / "runs" / "small_cnn-0123").mkdir(parents=True)
    execute(path, values, project / "reports")
    match change:
        case "notebook":
            write("01_a", "2")
        case "parameter":
            values["profile"] = "quick"
        case "package":
            (project / "kdutils" / "losses.py").write_text("two")
        case "published":
            (project / "reports" / "published.csv").write_text("study,arm")
        case "run record":
            (project / "runs" / "small_cnn-0123").rmdir()
    assert not execute(path, values, project / "reports").reused
    assert executed == ["01_a", "01_a"]


@pytest.fixture
def published(monkeypatch):
    """Stands in for the making of pages, PDFs, report.pdf and index.html: the chapters and the cover of each time."""
    made = []

    def publish(notebooks, folder, cover, failed):
        made.append(([path.stem for path in notebooks], cover))
        (folder / "report.pdf").unlink(missing_ok=True)
        names = [f"{path.stem}{suffix}" for path in notebooks for suffix in (".html", ".pdf")] + ["report.pdf"] * bool(notebooks)
        for name in [*names, "index.html"]:
            (folder / name).write_text("page")

    monkeypatch.setattr(suite.exports, "publish", publish)
    return made


def test_the_report_is_made_once(executed, published):
    write("01_a", "1"), write("02_b", "1")
    for _ in range(2):
        suite.report(make_order(VALUES))
    assert [stems for stems, _ in published] == [["01_a", "02_b"]]


def test_a_report_holds_the_chapters_of_earlier_commands(executed, published):
    write("01_a", "1"), write("02_b", "1")
    suite.report(make_order(VALUES, ["02"]))
    suite.report(make_order(VALUES, ["01"]))
    assert [stems for stems, _ in published] == [["02_b"], ["01_a", "02_b"]]


def test_a_chapter_whose_runs_are_gone_stays_in_the_report(project, executed, published):
    write("01_a", "1"), write("02_b", "1")
    (project / "runs" / "small_cnn-0123").mkdir(parents=True)
    execute(suite.NOTEBOOKS / "01_a.ipynb", VALUES, project / "reports" / "smoke")
    (project / "runs" / "small_cnn-0123").rmdir()
    suite.report(make_order(VALUES, ["02"]))
    assert [stems for stems, _ in published] == [["01_a", "02_b"]]


def test_a_report_that_was_killed_before_it_was_made_is_made(project, executed, published):
    write("01_a", "1")
    suite.report(make_order(VALUES))
    path = write("01_a", "2")
    execute(path, VALUES, project / "reports" / "smoke")  # killed here: the chapter is new, the report is not
    results = suite.report(make_order(VALUES))
    assert results[0].reused and len(published) == 2


@pytest.mark.parametrize("name", ["index.html", "report.pdf", "01_a.html", "01_a.pdf"])
def test_a_report_that_was_deleted_is_made_again(project, executed, published, name):
    write("01_a", "1")
    suite.report(make_order(VALUES))
    (project / "reports" / "smoke" / name).unlink()
    suite.report(make_order(VALUES))
    assert (project / "reports" / "smoke" / name).is_file()


def test_no_report_is_left_of_chapters_that_all_failed(project, executed, published, monkeypatch):
    write("01_a", "1")
    suite.report(make_order(VALUES))
    write("01_a", "2")
    monkeypatch.setattr(suite, "_papermill", lambda notebook, draft, *_: draft.write_text(notebook.read_text()) and "cell 1: ValueError: no")
    suite.report(make_order(VALUES))
    assert files(project / "reports" / "smoke") == {"failed/01_a.ipynb", "index.html"}


def test_a_report_warns_of_every_chapter_on_synthetic_data(project, executed, published):
    for name in ("01_a", "02_b"):
        write(name, "1", parameters=(OFFERED,))
    suite.report(make_order(VALUES))
    (project / "reports" / "smoke" / "01_a.ipynb").write_text((project / "reports" / "smoke" / "01_a.ipynb").read_text().replace('"dataset": "synthetic"', '"dataset": "cifar10"'))
    write("02_b", "2", parameters=(OFFERED,))
    suite.report(make_order(VALUES, ["02"]))
    covers = [cover for _, cover in published]
    assert covers[0]["notice"].startswith("Synthetic data: ") and covers[1]["notice"].startswith("Synthetic data in 02_b: ")
