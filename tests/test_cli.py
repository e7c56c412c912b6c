"""The command line: bad input gets one sentence and exit code 2, and leaves no trace."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from chapters import CHAPTERS
from jupyterlab.labapp import LabApp
from safetensors.torch import save_file

from kdutils import suite
from kdutils.__main__ import main
from kdutils.data import datasets
from kdutils.data.datasets import load_dataset
from kdutils.machine import detect_runtime
from kdutils.networks.registry import build_model
from kdutils.report import publish
from kdutils.runs.records import Store
from kdutils.settings import ROOT, settings
from kdutils.specs import DataSpec, ModelSpec, RunSpec
from kdutils.training.loop import Outcome


@pytest.fixture(scope="session")
def synthetic(data_folder):
    """The folder of the synthetic data set."""
    return data_folder / "synthetic"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Reports, runs and data in one folder, and no notebook may run."""

    def refuse(*_, **__):
        raise AssertionError("a notebook was run in spite of bad input")

    monkeypatch.setattr(suite, "ROOT", tmp_path / "project")
    monkeypatch.setattr(suite.Kernel, "execute", refuse)
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()
    }


def complaint(arguments, world, capsys) -> str:
    """The one sentence that a command which must be refused says, after it was checked that it did nothing."""
    before = content(world)
    assert main(arguments) == 2
    assert content(world) == before
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("kdutils: "), lines
    return lines[0]


@pytest.mark.parametrize(
    "command, named",
    {
        "report --profile fast": ["'fast'", "smoke", "quick", "paper"],
        "report --dataset mnist": ["'mnist'", "auto", "cifar", "synthetic"],
        "report --only 01,17": ["'17'", *CHAPTERS],
        "report --only 01,": ["''", *CHAPTERS],
        "run one_teacher": ["'one_teacher'", *CHAPTERS],
        "run notebooks/missing.ipynb": ["missing.ipynb", *CHAPTERS],
        "report -p 03.temprature=4": ["'temprature'", "03_one_teacher", "profile", "temperature", "kd_weight"],
        "report -p temprature=4": ["'temprature'", "temperature", "kd_weight"],
        "report -p 12.temperature=4": ["'12'", *CHAPTERS],
        "run 00 -p temperature=4": ["'temperature'", "00_data", "profile, dataset"],
        "report --only 00 -p temperature=4": ["'temperature'", "00_data", "profile, dataset"],
        "report --only 00,01 -p temperature=4": ["temperature"],
        "report --only 01 -p 03.temperature=4": ["03_one_teacher is not among", "01_baseline_small_cnn", "add it"],
        "report -p 03.temperature": ["03.temperature", "notebook.name=value"],
        "report -p temperature": ["temperature", "notebook.name=value"],
        "run 03 -p temperature=0": ["temperature", "greater than or equal to 0.01", "(got 0)"],
        "report -p temperature=-2.5": ["temperature", "greater than or equal to 0.01", "-2.5"],
        "report -p 03.temperature=hot": ["temperature", "number", "'hot'"],
        "report -p 03.temperature={[4]}": ["temperature", "number", "'{[4]}'"],
        "report -p 03.temperature=nan": ["temperature", "number", "'nan'"],
        "report -p 03.temperature=1e999": ["temperature", "finite"],
        "report -p 03.temperature=True": ["temperature", "number", "True"],
        "run 03 -p kd_weight=1.5": ["kd_weight", "less than or equal to 1", "1.5"],
        "report -p kd_weight=-0.1": ["kd_weight", "greater than 0", "-0.1"],
        "run 03 -p kd_weight=0": ["kd_weight: input", "greater than 0", "(got 0)"],
        "report --seeds 0,1,0": ["seeds", "differ", "[0, 1, 0]"],
        "report --seeds 0,one": ["--seeds", "whole numbers", "'0,one'"],
        "report --seeds 0.5": ["--seeds", "whole numbers", "'0.5'"],
        "report --seeds 0,-1": ["seeds", "greater than or equal to 0", "-1"],
        "report --seeds 4294967296": ["seeds", "less than 4294967296", "got 4294967296"],
        "run 03 -p teacher_seeds=[4294967296]": ["teacher_seeds", "less than 4294967296"],
        "report -p 03.profile=smoke": ["'quick'", "'smoke'", "--profile"],
        "report -p 03.teacher_seeds=[1,1]": ["teacher_seeds", "differ", "[1, 1]"],
        "report -p seeds=[]": ["seeds", "at least 1 item"],
        "report -p seeds=3": ["seeds", "list", "3"],
        "report -p init=zeros": ["init", "auto", "imagenet", "random", "'zeros'"],
        "run 03 -p teacher_file=a.pth": ["03_one_teacher", "teacher_file", "temperature"],
        "run 05 -p init=imagenet": ["05_binary_wideresnet", "init", "seeds"],
        "run 08 -p kd_weight=2": ["kd_weight", "less than or equal to 1", "(got 2)"],
        "run 08 -p temperature=[1,2]": ["temperature", "number", "[1, 2]"],
        "run 07 -p init=pretrain:mnist": ["init", "imagenet", "random", "pretrain:cifar100", "'pretrain:mnist'"],
        "report --scheduler host:8786": ["'host:8786'", "tcp://host:8786"],
        "run 01 --scheduler tcp://host:99999": ["'tcp://host:99999'", "tcp://host:8786"],
        "report --scheduler=": ["''", "tcp://host:8786"],
        "data mnist": ["'mnist'", "cifar10", "cifar100", "synthetic"],
        "data --rebuild": ["--rebuild", "names of the data sets"],
        "export missing.ipynb": ["missing.ipynb"],
        "compare missing": ["missing/results.json", "reports/quick"],
        "pack wrn_22-0 bonn.safetensors": ["'wrn_22-0'", "recorded are none yet", "records/"],
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused_by_name(command, named, world, capsys):
    said = complaint(command.split(), world, capsys)
    assert [word for word in named if word not in said] == [], said


def test_a_teachers_file_is_read_before_anything_runs(world, synthetic, monkeypatch, capsys):
    monkeypatch.setenv("KD_DATA_DIR", str(synthetic.parent))
    command = [
        "run",
        "08",
        "--profile",
        "smoke",
        "--dataset",
        "synthetic",
        "-p",
        f"teacher_file={world / 'teacher.pth'}",
    ]
    assert "teacher.pth cannot be read (No such file or directory)" in complaint(command, world, capsys)
    torch.save(build_model("resnet32x4", 100).state_dict(), world / "teacher.pth")
    said = complaint(command, world, capsys)
    assert "2 of its keys differ" in said and "fc.weight (expected [10, 256], the file has [100, 256])" in said


def test_an_empty_list_of_seeds_is_refused(world, capsys):
    assert "seeds" in complaint(["report", "--seeds", ""], world, capsys)


def test_an_empty_list_of_notebooks_is_refused(world, capsys):
    assert all(name in complaint(["report", "--only", ""], world, capsys) for name in CHAPTERS)


@pytest.mark.parametrize(
    "command", ["data synthetic", "report --dataset synthetic", "report --dataset cifar10", "report"]
)
def test_a_data_folder_that_cannot_be_written_is_refused(command, world, monkeypatch, capsys):
    (world / "file").write_text("not a folder")
    monkeypatch.setenv("KD_DATA_DIR", str(world / "file" / "data"))
    said = complaint(command.split(), world, capsys)
    assert str(world / "file" / "data") in said and "KD_DATA_DIR" in said


def test_a_run_store_that_cannot_be_written_is_refused(world, synthetic, monkeypatch, capsys):
    (world / "file").write_text("not a folder")
    monkeypatch.setenv("KD_DATA_DIR", str(synthetic.parent))
    monkeypatch.setenv("KD_RUNS_DIR", str(world / "file" / "runs"))
    said = complaint(["report", "--dataset", "synthetic", "-p", "init=random"], world, capsys)
    assert str(world / "file" / "runs") in said and "KD_RUNS_DIR" in said


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("KD_WORKERS", "x", "integer"),
        ("KD_WORKERS", "0", "greater than 0"),
        ("KD_WORKERS", "2.5", "integer"),
        ("KD_CHECKPOINT_SECONDS", "soon", "number"),
        ("KD_CHECKPOINT_SECONDS", "-1", "greater than or equal to 0"),
        ("KD_CHECKPOINT_SECONDS", "nan", "finite"),
        ("KD_SCHEDULER", "host", "tcp://host:8786"),
        ("KD_DATA_DIR", "~nobody-here/data", "no such home"),
        ("KD_RUNS_DIR", "~nobody-here/runs", "no such home"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_every_command(name, value, allowed, world, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    for command in (["report"], ["run", "03"], ["data"], ["lab"], ["export", "x.ipynb"], ["pack", "a", "b"]):
        said = complaint(command, world, capsys)
        assert said.startswith(f"kdutils: {name}: ") and allowed in said and value in said


def test_data_that_cannot_be_had_are_refused(world, capsys):
    said = complaint(["data", "cifar10"], world, capsys)
    assert "CIFAR-10" in said and str(world / "data" / "cifar10") in said
    assert "CIFAR-10" in complaint(["report", "--dataset", "cifar10"], world, capsys)


@pytest.mark.parametrize(
    "part, damage",
    [("train_images", "a flipped bit"), ("test_labels", "a lost end"), ("test_images", "no array at all")],
)
def test_a_damaged_cache_is_refused_by_file(world, synthetic, part, damage, capsys):
    shutil.copytree(synthetic, world / "data" / "synthetic")
    file = world / "data" / "synthetic" / f"{part}.npy"
    whole = file.read_bytes()
    file.write_bytes(
        {
            "a flipped bit": whole[:-1] + bytes([whole[-1] ^ 1]),
            "a lost end": whole[:-7],
            "no array at all": b"a web page",
        }[damage]
    )
    for command in (["data", "synthetic"], ["report", "--dataset", "synthetic", "-p", "init=random"]):
        said = complaint(command, world, capsys)
        assert str(file) in said and "data synthetic --rebuild" in said


def test_a_damaged_cache_is_rebuilt_on_demand(world, synthetic, monkeypatch):
    arrays = [
        np.load(synthetic / f"{split}_{part}.npy") for split in ("train", "test") for part in ("images", "labels")
    ]
    classes = tuple((synthetic / "classes.txt").read_text().splitlines())
    monkeypatch.setattr("kdutils.data.synthetic.synthesise", lambda name: (arrays, classes))  # which takes seconds
    shutil.copytree(synthetic, world / "data" / "synthetic")
    file = world / "data" / "synthetic" / "test_labels.npy"
    file.write_bytes(b"a web page")
    assert main(["data", "synthetic", "--rebuild"]) == 0
    assert file.read_bytes() == (synthetic / "test_labels.npy").read_bytes()


@pytest.mark.parametrize("damage", ["no weights at all", "a lost end", "other weights"])
def test_a_damaged_weight_file_is_refused_by_name(world, synthetic, damage, capsys):
    (world / "data" / "imagenet").mkdir(parents=True)
    (world / "data" / "synthetic").symlink_to(synthetic)
    file = world / "data" / "imagenet" / "resnet18.safetensors"
    save_file({"weight": torch.zeros(3, 4)}, file)
    if damage != "other weights":
        file.write_bytes(b"a web page" if damage == "no weights at all" else file.read_bytes()[:-5])
    said = complaint(["report", "--dataset", "synthetic"], world, capsys)
    assert file.name in said and ("is damaged" in said or "does not fit resnet18" in said)


def test_weights_that_cannot_be_had_are_refused_where_they_are_asked_for(world, synthetic, capsys):
    (world / "data").mkdir()
    (world / "data" / "synthetic").symlink_to(synthetic)
    said = complaint(["report", "--dataset", "synthetic", "-p", "init=imagenet"], world, capsys)
    assert str(world / "data" / "imagenet" / "resnet18.safetensors") in said


def test_an_unknown_command_or_option_is_refused(world, capsys):
    for arguments in ([], ["repot"], ["report", "--profle", "smoke"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2 and "usage: python -m kdutils" in capsys.readouterr().err


# What good input gets


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    for word in (
        "report",
        "run",
        "data",
        "export",
        "pack",
        "compare",
        "lab",
        "examples:",
        "-p 03.temperature=4",
        "KD_DATA_DIR",
        "KD_RUNS_DIR",
        "KD_WORKERS",
        "KD_SCHEDULER",
    ):
        assert word in said


@pytest.mark.parametrize("command", ["report", "run", "lab", "data", "export", "compare", "pack"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and f"usage: python -m kdutils {command}" in said
    if command in ("report", "run"):
        assert all(
            word in said
            for word in ("smoke", "quick", "paper", "--dataset", "--seeds", "--scheduler", "[NOTEBOOK.]NAME=VALUE")
        )


def test_data_lists_what_there_is(synthetic, capsys):
    digest = load_dataset("synthetic").digest
    assert main(["data"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines()[1:]}
    assert said.startswith(f"{synthetic.parent}:\n") and sorted(lines) == [
        "cifar10",
        "cifar100",
        "synthetic",
        "synthetic-other",
    ]
    assert "10,000 training and  2,000 test images, 10 classes" in lines["synthetic"] and digest in lines["synthetic"]
    assert "not here" in lines["cifar10"] and "data cifar100" in lines["cifar100"]


@pytest.fixture
def recorded(world, synthetic, monkeypatch):
    """A function that records an untrained network of a name, with options, and returns its key."""
    monkeypatch.setenv("KD_DATA_DIR", str(synthetic.parent))
    outcome = Outcome(
        [{"epoch": 1}],
        {"test": {"accuracy": 10.0}},
        np.zeros((2, 10), np.float32),
        np.zeros(2, np.uint8),
        1.0,
        1.0,
        1.0,
    )

    def record(name, diverged=None, **options):
        spec = RunSpec(data=DataSpec(name="synthetic"), model=ModelSpec(name=name, options=options), epochs=1)
        facts = {"data": {"title": "", "digest": load_dataset("synthetic").digest}, "weights": None, "teachers": {}}
        return (
            Store()
            .save(
                spec,
                build_model(name, 10, **options),
                dataclasses.replace(outcome, diverged=diverged),
                detect_runtime(),
                facts,
            )
            .spec.key
        )

    return record


def test_pack_writes_the_network_and_says_how_exact_and_how_large_it_is(recorded, world, capsys):
    key = recorded("wrn_16_1", precision="bonn")
    for run in (key, str(settings().runs_dir / key)):
        assert main(["pack", run, str(world / "bonn.safetensors")]) == 0
        said = capsys.readouterr().out
        assert re.search(r"^0 of [\d,]+ outputs differ .* 12 binary layers", said, re.MULTILINE)
        assert f"{(world / 'bonn.safetensors').stat().st_size:,} bytes" in said and "1 bit" in said


def test_pack_takes_fewer_test_images_where_there_are_no_more(recorded, world, capsys, monkeypatch):
    key, known = recorded("wrn_16_1", precision="bonn"), datasets.load_dataset("synthetic")
    few = dataclasses.replace(known, test_images=known.test_images[:6], test_labels=known.test_labels[:6])
    monkeypatch.setattr(datasets, "load_dataset", lambda name: few)
    assert main(["pack", key, str(world / "bonn.safetensors")]) == 0
    assert "the logits of 6 test images" in capsys.readouterr().out


def test_pack_refuses_a_run_that_diverged(recorded, world, capsys):
    key = recorded("wrn_16_1", diverged=1, precision="bonn")
    said = complaint(["pack", key, str(world / "out.safetensors")], world, capsys)
    assert f"{key} diverged in epoch 1" in said and not (world / "out.safetensors").exists()


def test_pack_refuses_a_network_of_floats(recorded, world, capsys):
    key = recorded("small_cnn")
    assert "precision stem, xnor or bonn" in complaint(["pack", key, str(world / "out.safetensors")], world, capsys)
    assert key in complaint(["pack", "another", str(world / "out.safetensors")], world, capsys)


@pytest.fixture
def plans(monkeypatch, data_folder):
    """Every plan that would be reported, in place of its report."""
    made = []

    def report(plan):
        made.append(plan)
        return [suite.Result(path, 1.0, "done") for path in plan.chapters]

    monkeypatch.setattr(suite, "report", report)
    return made


def test_values_reach_the_plan(plans, capsys):
    fixed = ["--profile", "smoke", "--dataset", "synthetic", "--seeds", "3,5", "-p", "init=random"]
    assert main(["report", *fixed, "--only", "01,03", "-p", "03.temperature=4", "-p", "kd_weight=0.9"]) == 0
    assert main(["run", "03_one_teacher", *fixed, "-p", "temperature=4"]) == 0
    both, single = plans
    common = {"profile": "smoke", "dataset": "synthetic", "seeds": [3, 5]}
    assert {path.stem: given for path, given in both.chapters.items()} == {
        "01_baseline_small_cnn": common,
        "03_one_teacher": common | {"init": "random", "temperature": 4, "kd_weight": 0.9},
    }
    assert {path.stem: given for path, given in single.chapters.items()} == {
        "03_one_teacher": common | {"init": "random", "temperature": 4}
    }
    assert str(both.folder / "index.html") in capsys.readouterr().out


@pytest.mark.parametrize("parameter", ["profile=smoke", "dataset=auto", "init=auto", "seeds=[4294967295]"])
def test_a_parameter_on_the_edge_of_what_is_allowed_is_resolved(parameter, plans, synthetic, world):
    """Only the synthetic set lies here: what is left to the machine becomes synthetic data and random weights."""
    (world / "data").mkdir()
    (world / "data" / "synthetic").symlink_to(synthetic)
    assert main(["run", "03", "--profile", "smoke", "--dataset", "auto", "-p", parameter]) == 0
    (given,) = plans[0].chapters.values()
    assert (given["profile"], given["dataset"], given["init"]) == ("smoke", "synthetic", "random")
    assert plans[0].folder.name == "smoke"


def test_a_chapter_is_found_from_another_folder(plans, monkeypatch, tmp_path):
    (tmp_path / "notebooks").symlink_to(suite.NOTEBOOKS)
    monkeypatch.chdir(tmp_path)
    fixed = ["--profile", "smoke", "--dataset", "synthetic", "-p", "dataset=synthetic"]
    for spelling in ("notebooks/00_data.ipynb", "./notebooks/../notebooks/00_data.ipynb", "00_data.ipynb", "00"):
        assert main(["run", spelling, *fixed]) == 0
        assert [path.stem for path in plans[-1].chapters] == ["00_data"]


def test_relative_folders_hold_from_where_the_command_is_given(plans, data_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_DATA_DIR", os.path.relpath(data_folder, tmp_path))
    monkeypatch.setenv("KD_RUNS_DIR", "my runs #1")
    assert main(["run", "00", "--profile", "smoke", "--dataset", "synthetic"]) == 0
    assert os.environ["KD_RUNS_DIR"] == str(tmp_path / "my runs #1")  # what kernels and workers are given
    monkeypatch.chdir("/")
    assert settings().runs_dir == tmp_path / "my runs #1" and (settings().data_dir / "synthetic").is_dir()


def test_exports_are_found_from_where_the_command_is_given(monkeypatch, tmp_path, capsys):
    exported = []
    monkeypatch.setattr(publish, "export", lambda path, folder: exported.append((path, folder)) or [path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["a b/x{0}.ipynb", "~/y #1.ipynb"]
    assert main(["export", *names]) == 0
    assert exported == [(tmp_path / "a b/x{0}.ipynb", tmp_path / "a b"), (tmp_path / "y #1.ipynb", tmp_path)]
    assert main(["export", "~nobody-here/x.ipynb"]) == 2 and "no such home" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_of_any_encoding_will_do(encoding, tmp_path, monkeypatch):
    (tmp_path / "dâta ─ 数").mkdir()
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "dâta ─ 数"))
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding))
    assert main(["data"]) == 0
    sys.stdout.flush()
    assert f"{tmp_path}/d".encode() in sys.stdout.buffer.getvalue()


def test_the_locale_of_c_will_do(tmp_path):
    (tmp_path / "dâta ─ 数").mkdir()
    places = {"KD_DATA_DIR": str(tmp_path / "dâta ─ 数"), "PYTHONPATH": str(ROOT), "PYTHONCOERCECLOCALE": "0"}
    environment = {name: value for name, value in os.environ.items() if name not in ("LANG", "LC_ALL", "PYTHONUTF8")}
    command, locale = [sys.executable, "-m", "kdutils", "data"], {"LANG": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=environment | places | locale, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr


def test_the_lab_is_started_on_the_notebooks_with_pinned_settings(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(LabApp, "launch_instance", lambda argv: started.append((argv, os.getcwd())))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_RUNS_DIR", "my runs")
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "")
    assert main(["lab"]) == 0
    assert started == [(["--allow-root"], str(suite.NOTEBOOKS))]
    assert os.environ["KD_RUNS_DIR"] == str(tmp_path / "my runs") and os.environ["JUPYTER_PREFER_ENV_PATH"] == "1"


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "make_plan", interrupted)
    assert main(["report"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("number, remedy", [(errno.ENOSPC, "free space there"), (errno.ENAMETOOLONG, "a shorter name")])
def test_what_the_disk_refuses_is_one_sentence(monkeypatch, capsys, number, remedy):
    def refused(*_):
        raise OSError(number, os.strerror(number), "/there")

    monkeypatch.setattr(suite, "make_plan", refused)
    assert main(["report"]) == 2
    assert re.fullmatch(rf"kdutils: .*'/there': .*{remedy}.*\n", capsys.readouterr().err)


@pytest.mark.skipif(os.name != "posix", reason="Windows has other pipes")
def test_output_that_nobody_reads_is_no_traceback():
    command = [sys.executable, "-m", "kdutils", "data"]
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, cwd=ROOT, env=buffered, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


TERMINATED = """
import os, runpy, signal, sys, types

def make_plan(*_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:  # a second one while the first is tidied up after
        os.kill(os.getpid(), signal.SIGINT)
        print("tidied", flush=True)

sys.modules["kdutils.suite"] = types.SimpleNamespace(make_plan=make_plan)  # the suite imports PyTorch, for seconds
sys.argv = ["kdutils", "report"]
runpy.run_module("kdutils", run_name="__main__")
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process without telling it")
def test_what_ends_a_job_is_an_interrupt():
    done = subprocess.run([sys.executable, "-c", TERMINATED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130 and "the same command goes on" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "tidied\n"
