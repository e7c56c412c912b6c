"""Notebooks run headlessly: parameters arrive, mistakes are errors, failures are told and cost nobody else."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest
import torch
from jupyter_client.channels import HBChannel
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import CellTimeoutError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kdutils import kernel as kernel_module, suite
from kdutils.__main__ import main
from kdutils.errors import InputError
from kdutils.kernel import Kernel
from kdutils.networks.registry import build_model
from kdutils.specs import DataSpec
from kdutils.suite import check_parameters, find_notebook, make_plan, notebook_parameters

VALUES = {"profile": "smoke", "dataset": "synthetic"}
OFFERED = 'profile = "quick"\ndataset = "auto"'


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project of its own: notebooks/, reports/ and a package of one file."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "kdutils").mkdir()
    (tmp_path / "kdutils" / "losses.py").write_text("one")
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(kernel_module, "ROOT", tmp_path)
    monkeypatch.setattr(kernel_module, "_BEFOREHAND", "")  # these notebooks use nothing of it
    return tmp_path


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all tests that need a real one."""
    kernel = Kernel()
    yield kernel
    kernel.close()


def write(name: str, *sources: str, parameters: tuple[str, ...] = (OFFERED,), study: str | None = None) -> Path:
    """A notebook of tagged cells `parameters` and code cells `sources`, which tells `study`."""
    tagged = [new_code_cell(source, metadata={"tags": ["parameters"]}) for source in parameters]
    cells = [new_markdown_cell(f"# Chapter {name}\n\nWhat is asked?"), *tagged, *map(new_code_cell, sources)]
    path = suite.NOTEBOOKS / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kdutils": {"study": study}} if study else {}), path)
    return path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def printed(path: Path) -> list[str]:
    outputs = (output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", []))
    return "".join(output.get("text", "") for output in outputs).splitlines()


def test_a_copy_of_a_chapter_never_stands_for_it():
    """JupyterLab's Duplicate gives it the same number."""
    path = write("01_a", "1")
    shutil.copy(path, path.with_name("01_a-Copy1.ipynb"))
    with pytest.raises(InputError, match="01_a-Copy1.ipynb and 01_a.ipynb have one number: give the copy another one"):
        find_notebook("01")


def test_a_report_that_cannot_be_written_is_not_computed(project, monkeypatch):
    monkeypatch.setattr(Kernel, "execute", lambda *_: pytest.fail("it was computed"))
    (project / "reports").touch()
    with pytest.raises(InputError, match="reports.* cannot be written"):
        suite.execute(write("01_a", "1"), VALUES, project / "reports" / "smoke", Kernel())


# The cell of parameters


def test_parameters_are_read_with_their_defaults():
    path = write(
        "01_a", parameters=('profile = "quick"  # how much\nseeds = None\nteacher_seeds = [0, -1]\nkd_weight = 0.5',)
    )
    assert notebook_parameters(path) == {"profile": "quick", "seeds": None, "teacher_seeds": [0, -1], "kd_weight": 0.5}


@pytest.mark.parametrize(
    "damage", [lambda nb: nb.update(nbformat_minor="5"), lambda nb: nb["cells"][0].update(source=1)]
)
def test_what_no_report_could_show_is_refused_before_it_runs(damage):
    path = write("01_a", parameters=(OFFERED,))
    notebook = json.loads(path.read_text())
    damage(notebook)
    path.write_text(json.dumps(notebook))
    with pytest.raises(InputError, match="01_a.ipynb is not a Jupyter notebook"):
        notebook_parameters(path)


@pytest.mark.parametrize("cells", [(), (OFFERED, OFFERED)])
def test_exactly_one_cell_must_be_tagged(cells):
    with pytest.raises(InputError, match=f"01_a.ipynb has {len(cells)} cells tagged 'parameters': exactly one"):
        notebook_parameters(write("01_a", parameters=cells))


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "seeds = list(range(3))",
        "seeds = default",
        "a, b = 1, 2",
        "a = b = 1",
        "seeds: list = [1]",
        "seeds += [1]",
        "print('hello')",
        "seeds = [",
        "seeds = {[0]}",
    ],
)
def test_parameters_are_plain_values(source):
    with pytest.raises(InputError, match="parameters.*01_a.ipynb.*name = value"):
        notebook_parameters(write("01_a", parameters=(source,)))


def test_a_notebook_may_not_offer_what_the_suite_does_not_know():
    write("01_a", parameters=("epochs = 3",))
    with pytest.raises(InputError, match="unknown parameter 'epochs': allowed are profile, dataset,"):
        make_plan(VALUES)


def test_a_notebook_of_an_older_minor_version_is_read_and_run(project, kernel):
    """Before 4.5 cells had no ids; a notebook without metadata names neither kernel nor language."""
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    tagged = code | {"metadata": {"tags": ["parameters"]}, "source": "profile = 'quick'"}
    cells = [tagged, code | {"metadata": {}, "source": "print(profile)"}]
    old = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 2}
    path = suite.NOTEBOOKS / "01_old.ipynb"
    path.write_text(json.dumps(old))
    assert notebook_parameters(path) == {"profile": "quick"}
    assert suite.execute(path, {"profile": "smoke"}, project / "reports", kernel).error is None
    assert printed(project / "reports" / "01_old.ipynb") == ["smoke"]
    nbformat.validate(nbformat.read(project / "reports" / "01_old.ipynb", as_version=4))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"nbformat": 4, "cells": 3}', "a web page"])
def test_what_is_no_notebook_is_refused_by_name(content):
    (suite.NOTEBOOKS / "01_a.ipynb").write_text(content)
    with pytest.raises(InputError, match="01_a.ipynb"):
        make_plan(VALUES)


# What is planned


def test_a_notebook_is_found_by_number_name_or_path(monkeypatch):
    path = write("03_one_teacher")
    write("04_two_teachers")
    for folder, spelling in (
        (suite.NOTEBOOKS, "./03_one_teacher.ipynb"),
        (suite.ROOT, "notebooks/03_one_teacher.ipynb"),
    ):
        monkeypatch.chdir(folder)
        names = {
            "03",
            "03_one_teacher",
            "03_one_teacher.ipynb",
            str(path),
            spelling,
            "../x/../" + os.path.relpath(path, ".."),
        }
        assert {find_notebook(name) for name in names} == {path}
    (suite.ROOT / "link").symlink_to(suite.NOTEBOOKS)
    assert find_notebook("link/03_one_teacher.ipynb") == path
    monkeypatch.setenv("HOME", str(suite.ROOT))
    assert find_notebook("~/notebooks/03_one_teacher.ipynb") == path


@pytest.mark.parametrize("name", ["3", "one", "", "05", "03_one", "~nobody-here/03_one_teacher.ipynb"])
def test_an_unknown_notebook_is_an_error_that_names_it(name):
    write("03_one_teacher"), write("04_two_teachers")
    with pytest.raises(
        InputError, match="no such home" if "~" in name else f"'{name}'.*03_one_teacher, 04_two_teachers"
    ):
        find_notebook(name)


def test_a_package_without_its_project_says_where_to_get_the_notebooks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "NOTEBOOKS", tmp_path / "site-packages" / "notebooks")
    for command in (["report"], ["run", "00"], ["lab"]):
        assert main(command) == 2
        assert "get the project's folder and `pip install -e .` in it" in capsys.readouterr().err


def test_a_plan_takes_all_notebooks_in_their_order():
    paths = [write(name) for name in ("02_b", "00_a", "09_c")]
    assert list(make_plan(VALUES).chapters) == sorted(paths)
    assert list(make_plan(VALUES, ["09", "00"]).chapters) == [paths[2], paths[1]]
    assert make_plan(VALUES).folder == suite.ROOT / "reports" / "smoke"


def test_settings_are_for_one_notebook_or_for_all_that_have_them():
    first = write("00_a")
    second = write("03_b", parameters=(f"{OFFERED}\ntemperature = None\nseeds = None",))
    chapters = make_plan(VALUES, given=["03.temperature=4", "03_b.seeds=0,1", "temperature=2"]).chapters
    assert chapters == {first: VALUES, second: VALUES | {"temperature": 4, "seeds": [0, 1]}}


@pytest.mark.parametrize("given", ["kd,dkd", "'kd','dkd'", "['kd', 'dkd']"])
def test_methods_are_listed_as_seeds_are(given):
    path = write("10_c", parameters=(f"{OFFERED}\nmethods = None",))
    assert make_plan(VALUES, given=[f"methods={given}"]).chapters == {path: VALUES | {"methods": ["kd", "dkd"]}}


@pytest.mark.parametrize(
    "setting, message",
    [
        (".temperature=4", "cannot read '.temperature=4'"),
        ("03.temperature=4", "'temperature' is no parameter of what is run, 03_b: allowed are profile, dataset"),
        ("tempreture=4", "'tempreture' is no parameter of what is run, 03_b: allowed are profile, dataset"),
        ("03.profile", "cannot read '03.profile': write notebook.name=value"),
        ("=4", "cannot read '=4'"),
        ("profile=fast", "profile: input should be 'smoke', 'quick', 'overnight' or 'paper' .got 'fast'"),
        ("temperature=4", "temperature"),  # known, but no notebook of the plan has it
    ],
)
def test_a_setting_that_reaches_nothing_is_an_error(setting, message):
    write("03_b")
    with pytest.raises(InputError, match=message):
        make_plan(VALUES, given=[setting])


def test_a_setting_of_a_notebook_that_is_not_run_is_an_error():
    write("00_a"), write("03_b")
    with pytest.raises(InputError, match="03_b is not among what is run, 00_a: add it there"):
        make_plan(VALUES, ["00"], ["03.dataset=synthetic"])


def test_a_profile_given_as_a_parameter_is_the_reports(project):
    write("00_a"), write("03_b")
    plan = make_plan({"profile": "quick", "dataset": "synthetic"}, given=["profile=smoke"])
    assert plan.folder == project / "reports" / "smoke"
    assert [given["profile"] for given in plan.chapters.values()] == ["smoke", "smoke"]
    with pytest.raises(InputError, match="one profile, got 'smoke' and 'paper': give it by --profile"):
        make_plan(VALUES, given=["03.profile=paper"])


def test_what_a_notebook_says_of_profile_and_data_holds_where_the_command_says_nothing(project):
    here = 'profile = "smoke"\ndataset = "synthetic"\nseeds = None\n'
    write("00_a", parameters=(here,)), write("03_b", parameters=(here.replace("smoke", "quick"),))
    assert make_plan({}, ["00"]).folder == project / "reports" / "smoke"
    assert make_plan({}, ["00"]) == make_plan({"profile": "smoke"}, ["00"]), "nothing of it need be made twice"
    assert make_plan({"profile": "quick"}, ["00"]).folder == project / "reports" / "quick"
    assert make_plan({"profile": "smoke"}).folder == project / "reports" / "smoke"
    with pytest.raises(InputError, match="one profile, got 'smoke' and 'quick': give it by --profile"):
        make_plan({})


@pytest.mark.parametrize(
    "seeds, is_fine", [([0, 2**32 - 1], True), ([2**32], False), ([-1], False), ([], False), ([1, 1], False)]
)
def test_seeds_are_those_that_numpy_takes(seeds, is_fine):
    for name in ("seeds", "teacher_seeds"):
        if is_fine:
            check_parameters({name: seeds})
            np.random.RandomState(max(seeds))
        else:
            with pytest.raises(
                InputError, match=f"{name}.*(less than 4294967296|greater than or equal to 0|differ|at least 1)"
            ):
                check_parameters({name: seeds})


STUDIED = f"{OFFERED}\ninit = 'auto'\nseeds = None\nkd_weight = None"


def test_data_and_weights_are_resolved_for_every_notebook_before_anything_runs(monkeypatch, data_folder):
    opened = []

    def open_study(name, **values):
        opened.append((name, values))
        return SimpleNamespace(data=DataSpec(name="synthetic", train_size=8), init="random")

    monkeypatch.setattr(suite, "open_study", open_study)
    first, second = write("00_a", study="binary", parameters=(STUDIED,)), write("01_b", study="cifar100")
    plain = write("02_c", parameters=("seeds = None",))
    plan = make_plan({"profile": "smoke", "dataset": "auto"}, given=["00.dataset=auto", "init=auto", "kd_weight=0.5"])
    asked = {"profile": "smoke", "dataset": "auto"}
    assert opened == [("binary", asked | {"init": "auto", "seeds": None, "kd_weight": 0.5}), ("cifar100", asked)]
    assert plan.chapters == {
        first: {"profile": "smoke", "dataset": "synthetic", "init": "random", "kd_weight": 0.5},
        second: {"profile": "smoke", "dataset": "synthetic"},
        plain: {},
    }


def test_every_chapter_is_given_its_own_studys_data(cifar, data_folder, monkeypatch):
    """CIFAR-10 lies here, CIFAR-100 does not, and the synthetic set is built."""
    for name, study in (("00_a", "assignment"), ("08_c", "cifar100"), ("09_d", "assignment")):
        write(name, study=study, parameters=(STUDIED,))
    shutil.copytree(data_folder / "synthetic", cifar.parent / "synthetic")
    auto, ours = {"profile": "smoke", "dataset": "auto"}, {"profile": "smoke", "dataset": "cifar"}

    def sets(*arguments) -> list[str]:
        return [given["dataset"] for given in make_plan(*arguments, given=["init=random"]).chapters.values()]

    assert sets(auto) == ["cifar10", "synthetic", "cifar10"]
    assert sets(auto, ["08"]) == ["synthetic"]
    plan = make_plan(ours, ["00", "09"], ["09.dataset=synthetic", "init=random"])
    assert [given["dataset"] for given in plan.chapters.values()] == ["cifar10", "synthetic"]
    with pytest.raises(InputError, match="CIFAR-100.*cannot be downloaded"):
        make_plan(ours)
    shutil.copytree(cifar, cifar.parent / "cifar100")
    (cifar.parent / "cifar100" / "classes.txt").write_text("".join(f"class {number}\n" for number in range(100)))
    assert sets(auto) == ["cifar10", "cifar100", "cifar10"]
    with pytest.raises(InputError, match="dataset of study cifar100: allowed are"):
        make_plan({"profile": "smoke", "dataset": "cifar10"}, given=["init=random"])


def test_a_set_too_small_for_its_profile_is_refused_before_anything_runs(cifar):
    write("00_a", study="assignment", parameters=(STUDIED,))
    with pytest.raises(InputError, match="300"):
        make_plan({"profile": "quick", "dataset": "cifar10"}, given=["init=random"])


def test_a_teachers_file_is_found_from_where_the_command_is_given(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(project))
    torch.save(build_model("resnet32x4", 10).state_dict(), project / "teacher.pth")
    path = write("08_c", parameters=(f"{OFFERED}\nteacher_file = None",), study="cifar100")
    for setting in ("08.teacher_file=teacher.pth", "teacher_file=./teacher.pth", "teacher_file=~/teacher.pth"):
        assert make_plan(VALUES, given=[setting]).chapters[path]["teacher_file"] == str(project / "teacher.pth")


# Running


@pytest.mark.parametrize("name", ["plain", "a b#{x}", "{0} {}", "$HOME ${x} %s é"])
def test_parameters_arrive_and_the_result_is_kept_in_folders_of_any_name(project, monkeypatch, kernel, name):
    (project / name / "notebooks").mkdir(parents=True)
    (project / name / "tmp").mkdir()
    monkeypatch.setattr(suite, "NOTEBOOKS", project / name / "notebooks")
    monkeypatch.setattr(suite, "ROOT", project / name)
    monkeypatch.setattr(tempfile, "tempdir", str(project / name / "tmp"))
    monkeypatch.setenv("KD_RUNS_DIR", str(project / name / "runs"))
    write("01_a", SHOWS, parameters=(f"{OFFERED}\ntemperature = None\nseeds = [5]",))
    plan = make_plan(VALUES, given=["temperature=4"])
    before = dict(os.environ)
    (result,) = [suite.execute(path, given, plan.folder, kernel) for path, given in plan.chapters.items()]
    assert (result.error, result.outcome) == (None, "done") and result.seconds > 0
    values, *places = printed(plan.folder / "01_a.ipynb")
    assert values == "smoke synthetic 4 [5]"
    assert places == [str(suite.NOTEBOOKS), str(project / name / "runs"), "01_a", sys.executable]
    assert files(plan.folder) == {"01_a.ipynb", "figures/01_x.svg"} and not list(
        (project / name / "tmp").glob("kdutils-*")
    )
    assert dict(os.environ) == before


SHOWS = """
import os, sys
from pathlib import Path
print(profile, dataset, temperature, seeds)
print(os.getcwd(), os.environ["KD_RUNS_DIR"], os.environ["KD_CHAPTER"], sys.executable, sep="\\n")
(Path(os.environ["KD_REPORT_DIR"]) / "figures").mkdir(parents=True)
(Path(os.environ["KD_REPORT_DIR"]) / "figures" / "01_x.svg").write_text("a figure")
"""


def test_a_chapter_sees_nothing_of_the_one_before(project, kernel):
    first = write("01_a", "import os\nleft = 1\nos.environ['KD_LEFT'] = 'x'\nos.chdir('/')")
    second = write(
        "02_b",
        "import os\nprint('left' in globals(), os.environ.get('KD_LEFT'))",
        "print(os.environ['MPLBACKEND'], os.getcwd())",
        "from multiprocessing import spawn\nassert spawn.get_preparation_data('x') and 'renew' not in dir()",
    )
    for path in (first, second):
        assert suite.execute(path, VALUES, project / "reports", kernel).error is None
    left, backend_and_folder = printed(project / "reports" / "02_b.ipynb")
    assert left == "False None" and "inline" in backend_and_folder and backend_and_folder.endswith(str(suite.NOTEBOOKS))
    counts = [cell.get("execution_count") for cell in nbformat.read(project / "reports" / "02_b.ipynb", 4).cells[1:]]
    assert counts == [1, 2, 3, 4, 5]


def test_a_users_own_python3_kernel_does_not_win(project, monkeypatch):
    spec = project / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false", "{connection_file}"], "display_name": "mine", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(project / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(project / "jupyter"))
    kernel = Kernel()
    try:
        path = write("01_a", f"import sys\nprint(sys.executable, {str(project)!r} in sys.path)")
        assert suite.execute(path, VALUES, project / "reports", kernel).error is None
    finally:
        kernel.close()
    assert printed(project / "reports" / "01_a.ipynb") == [f"{sys.executable} True"]


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process without telling it")
def test_a_chapter_that_is_interrupted_ends_without_a_word(project, caplog):
    """What still waits for the kernel would complain of its end, after the command has said how to go on."""
    interrupt = "import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(600)"
    path, kernel = write("01_a", interrupt), Kernel()
    try:
        with pytest.raises(KeyboardInterrupt):
            suite.execute(path, VALUES, project / "reports", kernel)
    finally:
        kernel.close()
    gc.collect()
    assert not [record.getMessage() for record in caplog.records]


def test_a_project_whose_folder_python_cannot_look_into_is_refused(project, monkeypatch):
    monkeypatch.setattr(kernel_module, "ROOT", project / f"a{os.pathsep}b")
    with pytest.raises(InputError, match="behind which Python finds nothing: rename it"):
        Kernel()


def test_a_client_that_is_replaced_at_once_has_no_heartbeat():
    """Stopped while its thread begins, jupyter_client's heartbeat opens sockets until there are no more."""
    before, kernel = threading.enumerate(), Kernel()
    try:
        kernel.begin()
        begun = [thread for thread in threading.enumerate() if thread not in before]
        assert not [thread for thread in begun if isinstance(thread, HBChannel)]
    finally:
        kernel.close()


FIGURE = """
import os
from pathlib import Path
figures = Path(os.environ["KD_REPORT_DIR"]) / "figures"
figures.mkdir(parents=True)
(figures / f"01_{name}.svg").write_text(name)
"""


def test_a_chapter_replaces_its_last_version_only_when_the_new_one_is_done(project, kernel):
    folder = project / "reports"
    given = {"name": "curves"}
    assert suite.execute(write("01_a", FIGURE, parameters=("name = 'x'",)), given, folder, kernel).error is None
    (folder / "figures" / "00_other.svg").write_text("another chapter's")
    (folder / "handed in").mkdir()
    (folder / "handed in" / "01_answers.md").write_text("a reader's own")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    others = {"figures/00_other.svg", "handed in/01_answers.md"}
    assert set(before) == {"01_a.ipynb", "figures/01_curves.svg", *others}
    path = write("01_a", FIGURE, "raise ValueError('no')", parameters=("name = 'x'",))
    assert suite.execute(path, given, folder, kernel).error == "cell 4: ValueError: no"
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert files(folder) == {*before, "failed/01_a.ipynb"}
    path = write("01_a", FIGURE, "# mended", parameters=("name = 'x'",))
    assert suite.execute(path, {"name": "other"}, folder, kernel).error is None
    assert files(folder) == {"01_a.ipynb", "figures/01_other.svg", *others}


def test_a_failing_notebook_is_told_and_kept_aside_and_the_others_are_published(project, capsys):
    folder = project / "reports" / "smoke"
    write("01_bad", "print('before')", "raise ValueError('the loss is\\nnot finite')", "print('never')")
    write("02_good", "print('fine')")
    assert main(["report", "--profile", "smoke", "--dataset", "synthetic"]) == 1
    good = {"02_good.ipynb", "02_good.html", "02_good.pdf"}
    assert files(folder) == good | {"failed/01_bad.ipynb", "index.html", "report.pdf", "results.json"}
    table = capsys.readouterr().out.partition("notebook ")[2]
    told = {line[:6]: line for line in table.splitlines()}
    assert "ValueError: the loss is not finite" in told["01_bad"] and told["02_goo"].endswith("done")
    assert printed(folder / "failed" / "01_bad.ipynb")[0] == "before"
    index = " ".join((folder / "index.html").read_text().split())
    assert "ValueError: the loss is" in index and 'href="02_good.html"' in index and 'href="01_bad.html"' not in index


def kernels() -> list[psutil.Process]:
    """The kernels that this process has started."""
    children = psutil.Process().children(recursive=True)
    return [process for process in children if "ipykernel" in " ".join(process.cmdline())]


@pytest.mark.parametrize(
    "limit, source, told",
    [
        ("execution_timeout", "import time\ntime.sleep(600)", "a cell took longer than 1 s"),
        (None, "import os\nos._exit(9)", "the kernel died (killed, or out of memory)"),
        (None, "raise ValueError('one\\ntwo')", "cell 4: ValueError: one two"),
    ],
)
def test_what_ends_a_chapter_is_told_in_one_line(project, monkeypatch, limit, source, told):
    monkeypatch.setattr(kernel_module, "_LIMITS", kernel_module._LIMITS | ({limit: 1} if limit else {}))
    before, kernel = kernels(), Kernel()
    result = suite.execute(write("01_a", "print(profile)", source), VALUES, project / "reports", kernel)
    assert (result.outcome, result.error) == ("failed", told)
    if not limit:  # within which a busy machine may not even come to print
        assert printed(project / "reports" / "failed" / "01_a.ipynb") == ["smoke"]  # what was shown until then is kept
    assert files(project / "reports") == {"failed/01_a.ipynb"} and kernels() == before


@pytest.mark.parametrize(
    "error, told",
    [
        (CellTimeoutError.error_from_timeout_and_cell("Timeout waiting for IOPub output", 4, None), "output of a cell"),
        (RuntimeError("Kernel didn't respond in 60 seconds\nfor some reason"), "did not start: Kernel didn't respond"),
        (PermissionError(13, "Permission denied", "kernel.json"), "did not start: .*kernel.json"),
    ],
)
def test_a_kernel_that_does_not_start_or_loses_output_is_told_in_one_line(project, monkeypatch, executed, error, told):
    def execute_notebook(*_, **__):
        raise error

    monkeypatch.setattr(kernel_module.papermill, "execute_notebook", execute_notebook)
    result = run(write("01_a", "1"), project / "reports")
    assert re.search(told, result.error) and "\n" not in result.error
    assert files(project / "reports") == {"failed/01_a.ipynb"}


def test_a_command_that_no_kernel_can_start_for_is_told(project, monkeypatch):
    monkeypatch.setattr(kernel_module._Manager, "kernel_spec", KernelSpec(argv=[str(project / "no-python")]))
    result = suite.execute(write("01_a", "1"), VALUES, project / "reports", Kernel())
    assert "did not start" in result.error and "no-python" in result.error


# What need not be run again


@pytest.fixture
def executed(monkeypatch, project):
    """Stands in for kernel, papermill and export, which take seconds: names of the notebooks that were executed."""
    names, environments = [], []

    async def renew(self, folder, environment):
        environments.append(environment)

    def execute_notebook(source, target, parameters, **_):
        names.append(Path(source).stem)
        if (project / "runs" / "small_cnn-0123").is_dir():
            Path(environments[-1]["KD_USED_RUNS"]).write_text("small_cnn-0123\n")
        Path(target).write_text(Path(source).read_text())

    monkeypatch.setattr(Kernel, "begin", lambda self: None)
    monkeypatch.setattr(Kernel, "_renew", renew)
    monkeypatch.setattr(kernel_module.papermill, "execute_notebook", execute_notebook)
    return names


def run(path: Path, folder: Path, **given) -> suite.Result:
    """The notebook's run with these values, where nothing needs a kernel."""
    return suite.execute(path, VALUES | given, folder, Kernel())


def test_what_is_unchanged_is_reused(project, executed):
    path = write("01_a", "1")
    assert run(path, project / "reports").outcome == "done"
    again = run(path, project / "reports")
    assert again.outcome == "unchanged" and again.error is None and executed == ["01_a"]


def test_a_parameter_that_the_notebook_has_not_changes_nothing(project, executed, published):
    write("01_a", "1"), write("02_b", "1", parameters=(f"{OFFERED}\ntemperature = None",))
    suite.report(make_plan(VALUES))
    results = suite.report(make_plan(VALUES, given=["temperature=8"]))
    assert [result.outcome for result in results] == ["unchanged", "done"]


def test_what_is_no_source_changes_nothing(project, executed):
    path = write("01_a", "1")
    run(path, project / "reports")
    for name in ("__init__.pyi", "__pycache__/losses.cpython-311.pyc", ".ipynb_checkpoints/.x.py", ".losses.py.swp"):
        (project / "kdutils" / name).parent.mkdir(exist_ok=True)
        (project / "kdutils" / name).write_text("a stub, a cache or an editor's draft")
    assert run(path, project / "reports").outcome == "unchanged"


@pytest.mark.parametrize(
    "change", ["notebook", "parameter", "package", "template", "published", "run record", "weights", "teacher's file"]
)
def test_what_changed_is_run_again(project, executed, monkeypatch, change):
    monkeypatch.setenv("KD_DATA_DIR", os.environ["KD_DATA_DIR"])
    weights = project / "data" / "imagenet" / "resnet18.safetensors"
    for file in (weights, project / "teacher.pth", project / "kdutils" / "report" / "page.html.j2"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("one")
    given, path = (
        {"dataset": None, "init": "imagenet", "teacher_file": str(project / "teacher.pth")},
        write("01_a", "1"),
    )
    monkeypatch.setenv("KD_DATA_DIR", str(project / "data"))
    (project / "runs" / "small_cnn-0123").mkdir(parents=True)
    run(path, project / "reports", **given)
    assert run(path, project / "reports", **given).outcome == "unchanged"
    match change:
        case "notebook":
            write("01_a", "2")
        case "parameter":
            given["profile"] = "quick"
        case "package":
            (project / "kdutils" / "losses.py").write_text("two")
        case "template":
            (project / "kdutils" / "report" / "page.html.j2").write_text("two")
        case "published":
            (project / "reports" / "published.csv").write_text("study,arm")
        case "run record":
            (project / "runs" / "small_cnn-0123").rmdir()
        case "weights":
            weights.write_text("two")
        case "teacher's file":
            (project / "teacher.pth").write_text("two")
    assert run(path, project / "reports", **given).outcome == "done"
    assert executed == ["01_a", "01_a"]


def test_other_data_make_a_chapter_run_again(cifar, executed, project):
    path = write("01_a", "1")
    run(path, project / "reports", dataset="cifar10")
    labels = np.load(cifar / "test_labels.npy")
    np.save(cifar / "test_labels.npy", labels[::-1])
    (cifar / "SHA256").unlink(missing_ok=True)
    assert run(path, project / "reports", dataset="cifar10").outcome == "done"


@pytest.fixture
def published(monkeypatch):
    """Stands in for the making of pages, PDFs, report.pdf and index.html: the chapters and the cover of each time."""
    made = []

    def publish(notebooks, folder, cover, failed):
        made.append(([path.stem for path in notebooks], cover))
        (folder / "report.pdf").unlink(missing_ok=True)
        names = [f"{path.stem}{suffix}" for path in notebooks for suffix in (".html", ".pdf")] + ["report.pdf"] * bool(
            notebooks
        )
        for name in [*names, "results.json", "index.html"]:
            (folder / name).write_text("page")

    monkeypatch.setattr(suite.exports, "publish", publish)
    return made


def test_the_report_is_made_once(executed, published):
    write("01_a", "1"), write("02_b", "1")
    for _ in range(2):
        suite.report(make_plan(VALUES))
    assert [stems for stems, _ in published] == [["01_a", "02_b"]]


def test_a_report_holds_the_chapters_of_earlier_commands(executed, published):
    write("01_a", "1"), write("02_b", "1")
    suite.report(make_plan(VALUES, ["02"]))
    suite.report(make_plan(VALUES, ["01"]))
    assert [stems for stems, _ in published] == [["02_b"], ["01_a", "02_b"]]


def test_a_chapter_whose_runs_are_gone_stays_in_the_report(project, executed, published):
    write("01_a", "1"), write("02_b", "1")
    (project / "runs" / "small_cnn-0123").mkdir(parents=True)
    run(suite.NOTEBOOKS / "01_a.ipynb", project / "reports" / "smoke")
    (project / "runs" / "small_cnn-0123").rmdir()
    suite.report(make_plan(VALUES, ["02"]))
    assert [stems for stems, _ in published] == [["01_a", "02_b"]]


def test_a_report_that_was_killed_before_it_was_made_is_made(project, executed, published):
    write("01_a", "1")
    suite.report(make_plan(VALUES))
    path = write("01_a", "2")
    run(path, project / "reports" / "smoke")  # killed here: the chapter is new, the report is not
    results = suite.report(make_plan(VALUES))
    assert results[0].outcome == "unchanged" and len(published) == 2


@pytest.mark.parametrize("name", ["index.html", "results.json", "report.pdf", "01_a.html", "01_a.pdf"])
def test_a_report_that_was_deleted_is_made_again(project, executed, published, name):
    write("01_a", "1")
    suite.report(make_plan(VALUES))
    (project / "reports" / "smoke" / name).unlink()
    suite.report(make_plan(VALUES))
    assert (project / "reports" / "smoke" / name).is_file()


def test_a_chapter_that_failed_keeps_its_last_version_in_the_report(project, executed, published, monkeypatch):
    folder = project / "reports" / "smoke"
    first = write("01_a", "1").read_bytes()
    suite.report(make_plan(VALUES))
    path = write("01_a", "2")
    with monkeypatch.context() as patch:
        patch.setattr(Kernel, "execute", lambda *_: "cell 1: ValueError: no")
        suite.report(make_plan(VALUES))
    whole = {"01_a.ipynb", "01_a.html", "01_a.pdf", "index.html", "report.pdf", "results.json"}
    assert files(folder) == whole | {"failed/01_a.ipynb"} and [stems for stems, _ in published] == [["01_a"], ["01_a"]]
    path.write_bytes(first)  # nothing to run, but the index lists a failure that is none any more
    suite.report(make_plan(VALUES))
    assert files(folder) == whole and len(published) == 3 and executed == ["01_a"]


def test_no_report_is_made_of_chapters_that_all_failed(project, executed, published, monkeypatch):
    write("01_a", "1")
    monkeypatch.setattr(Kernel, "execute", lambda *_: "cell 1: ValueError: no")
    suite.report(make_plan(VALUES))
    assert files(project / "reports" / "smoke") == {"failed/01_a.ipynb", "index.html", "results.json"}


@pytest.mark.parametrize("trained", ["an accelerator", "this machine"])
def test_the_cover_names_the_hardware_that_trained(project, executed, published, monkeypatch, trained):
    monkeypatch.setattr("kdutils.runs.records.hardware", lambda: "this machine")
    write("01_a", "1")
    (project / "runs" / "small_cnn-0123").mkdir(parents=True)
    summary = project / "reports" / "smoke" / "records" / "small_cnn-0123.json"  # as kept of another store
    summary.parent.mkdir(parents=True)
    summary.write_text(json.dumps({"environment": {"hardware": trained}}))
    suite.report(make_plan(VALUES))
    also = "; this report was set on this machine" if trained == "an accelerator" else ""
    assert published[0][1]["facts"]["Hardware"] == trained + also


def test_a_report_warns_of_every_chapter_on_synthetic_data(project, executed, published):
    for name in ("01_a", "02_b"):
        write(name, "1", parameters=(OFFERED,))
    suite.report(make_plan(VALUES))
    (project / "reports" / "smoke" / "01_a.ipynb").write_text(
        (project / "reports" / "smoke" / "01_a.ipynb")
        .read_text()
        .replace('"dataset": "synthetic"', '"dataset": "cifar10"')
    )
    write("02_b", "2", parameters=(OFFERED,))
    suite.report(make_plan(VALUES, ["02"]))
    covers = [cover for _, cover in published]
    assert covers[0]["notice"].startswith("Synthetic data: ") and covers[1]["notice"].startswith(
        "Synthetic data in 02_b: "
    )
    assert covers[1]["facts"]["Data"].startswith("CIFAR-10; synthetic data (digest "), "of both, whichever is here"
    assert not any("ResNets start from" in cover["facts"] for cover in covers), "there are none"
