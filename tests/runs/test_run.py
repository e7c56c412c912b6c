"""From specs to records: each run once, teachers first, and the same numbers whatever happened on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

import kdutils.runs.run as runs
from kdutils.data.datasets import load_dataset
from kdutils.data.views import IDENTITY_VIEW, render, split_indices
from kdutils.distillation.methods import KD
from kdutils.errors import InputError
from kdutils.machine import Runtime
from kdutils.networks.registry import build_model
from kdutils.runs import records, resolve as resolving
from kdutils.runs.cluster import workers
from kdutils.runs.records import Record, Store
from kdutils.runs.resolve import open_table, resolve
from kdutils.runs.run import plan, run, run_all
from kdutils.settings import settings
from kdutils.specs import Bayesian, DataSpec, Distillation, ModelSpec, OptimiserSpec, RunSpec

DATA = DataSpec(name="cifar10", train_size=48, val_size=20, test_size=30, views=3)
FEW = DATA.with_(train_size=16, val_size=4, test_size=4)


@pytest.fixture(autouse=True)
def _data(cifar, monkeypatch):
    """Every run of this module is on the small stand-in for CIFAR-10, in this process."""
    monkeypatch.setenv("KD_WORKERS", "1")


def find(spec: RunSpec) -> Record | None:
    return Store().find(spec)


def cnn(**changes) -> RunSpec:
    return RunSpec(**{"data": DATA, "model": ModelSpec(name="small_cnn"), "epochs": 2, "batch_size": 16} | changes)


def student(*teachers: RunSpec, **changes) -> RunSpec:
    return cnn(distillation=Distillation(teachers=teachers, method=KD(temperature=2.0, kd_weight=0.5)), **changes)


def numbers(record: Record):
    """All that a run's arithmetic decides."""
    history = record.history.drop(columns="seconds").to_dict("records")
    return history, record.summary["metrics"], record.digest, record.predictions[0].tobytes()


def elsewhere(tmp_path, monkeypatch, name="elsewhere") -> None:
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / name))


def test_a_run_is_trained_once_and_then_found(monkeypatch):
    record = run(cnn())
    model, (logits, labels) = record.load_model(), record.predictions
    dataset = load_dataset("cifar10")
    assert labels.tolist() == dataset.test_labels[:30].tolist()
    assert record.metric("test") == pytest.approx(100 * (logits.argmax(1) == labels).mean())
    with torch.inference_mode():
        pixels = (
            dataset.test_images[:30].permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        ) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        np.testing.assert_allclose(model(pixels).numpy(), logits, atol=0.03)  # bfloat16 where the machine has it
    monkeypatch.setattr(runs, "train", None)
    assert numbers(run(cnn())) == numbers(record)
    assert (
        record.summary["data"] == {"title": dataset.title, "digest": dataset.digest}
        and record.summary["teachers"] == {}
    )


def test_progress_rises_to_one_by_epochs():
    fractions = []
    run(cnn(epochs=4), report=fractions.append)
    assert fractions == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_the_same_spec_gives_the_same_numbers_in_another_store(tmp_path, monkeypatch):
    first = numbers(run(cnn()))
    torch.rand(10)
    elsewhere(tmp_path, monkeypatch)
    assert numbers(run(cnn())) == first
    assert numbers(run(cnn(seed=1)))[2] != first[2]


def test_a_student_trains_its_teachers_first_and_names_them():
    teachers = cnn(seed=1), cnn(seed=2)
    record = run(student(*teachers))
    assert record.summary["teachers"] == {teacher.key: find(teacher).digest for teacher in teachers}
    assert "train_kd" in record.history and record.history["train_kd"].gt(0).all()
    assert record.summary["metrics"] != run(cnn()).summary["metrics"]


def test_one_table_serves_every_student_of_a_teacher():
    run(student(cnn(seed=1)))
    checksums = list((settings().runs_dir / "tables").glob("*/checksums.npy"))
    before = [np.load(path).copy() for path in checksums]
    for spec in (
        student(cnn(seed=1), seed=7),
        cnn(distillation=Distillation(teachers=(cnn(seed=1),), method=KD(temperature=8.0, kd_weight=0.9))),
    ):
        run(spec)
    assert len(checksums) == 1 and 0 < np.count_nonzero(before[0]) <= 48 * 2
    assert list((settings().runs_dir / "tables").glob("*/checksums.npy")) == checksums and np.array_equal(
        np.load(checksums[0]), before[0]
    )
    run(student(cnn(seed=2)))
    assert len(list((settings().runs_dir / "tables").iterdir())) == 2


def test_no_file_of_the_store_is_a_pickle():
    run(student(cnn(seed=1)))
    suffixes = {path.suffix for path in settings().runs_dir.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".csv", ".npz", ".npy", ".safetensors", ".txt"}
    for path in settings().runs_dir.rglob("*.np[yz]"):
        np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)


@pytest.fixture
def imagenet() -> dict[str, torch.Tensor]:
    """A file of ImageNet weights of ResNet18, as random as any; its state dict."""
    folder = Path(os.environ["KD_DATA_DIR"]) / "imagenet"
    folder.mkdir()
    torch.manual_seed(0)
    state = torchvision.models.resnet18(num_classes=1000).state_dict()
    save_file(state, folder / "resnet18.safetensors")
    return state


def head(**changes) -> RunSpec:
    data = DataSpec(name="cifar10", train_size=12, val_size=4, test_size=4, views=1)
    resized = ModelSpec(name="resnet18", options={"stem": "resized", "size": 40})
    fields = dict(data=data, model=resized, init="imagenet", trainable="head", batch_size=6)
    return cnn(**fields | changes)


@pytest.mark.parametrize("stem", [{"stem": "imagenet"}, {"stem": "resized", "size": 40}])
def test_a_head_on_imagenet_weights_trains_on_cached_features_and_names_the_weights(stem, imagenet):
    record = run(head(model=ModelSpec(name="resnet18", options=stem)))
    assert "resnet18.safetensors" in record.summary["weights"]
    assert [path.name.rsplit("-", 1)[0] for path in (settings().runs_dir / "tables").iterdir()] == ["resnet18-features"]
    trained = record.load_model().state_dict()
    assert all(torch.equal(trained[name], tensor) for name, tensor in imagenet.items() if not name.startswith("fc."))
    assert all(map(torch.equal, record.load_head(), (trained["fc.weight"], trained["fc.bias"])))


def test_a_table_of_features_is_known_by_the_weights_as_they_are_now(imagenet):
    def opened() -> tuple[Path, float]:
        table, network = resolving.open_table(head(), Store())
        return table.folder, network().bn1.bias[0].item()

    file, found = Path(os.environ["KD_DATA_DIR"]) / "imagenet" / "resnet18.safetensors", [opened(), opened()]
    for added in (1.0, 0.0):
        save_file(imagenet | {"bn1.bias": imagenet["bn1.bias"] + added}, file)
        found.append(opened())
    first, other = found[0][0], found[2][0]
    assert first != other and found == [(first, 0.0), (first, 0.0), (other, 1.0), (first, 0.0)]


def test_heads_of_one_backbone_and_their_students_share_one_table_of_features(imagenet, monkeypatch, tmp_path):
    """Two heads, a head of another size, and students of both: no table of logits, and equal numbers in any order."""
    heads = [head(), head(seed=1)]
    other = head(model=ModelSpec(name="resnet18", options={"stem": "resized", "size": 48}))
    specs = [student(each, data=each.data) for each in (*heads, other)] + [student(*heads, data=heads[0].data, seed=3)]
    records = run_all(specs)
    tables = list((settings().runs_dir / "tables").iterdir())
    assert len(tables) == 2 and all(table.name.startswith("resnet18-features-") for table in tables)
    assert all(record.summary["teachers"] for record in records)
    elsewhere(tmp_path, monkeypatch)
    monkeypatch.setattr(runs, "SHARD", 3)
    assert [numbers(run(spec)) for spec in reversed(specs)] == [numbers(record) for record in reversed(records)]


def test_a_student_of_a_head_learns_what_the_whole_network_would_say(imagenet):
    teacher = run(head())
    record = run(student(teacher.spec, data=teacher.spec.data, epochs=1))
    data = load_dataset("cifar10")
    (indices, _) = split_indices(data.train_labels, *teacher.spec.data.split)
    (inputs,) = resolve(record.spec, {teacher.spec.key: teacher}, Store())[1].tables
    views = torch.full((len(indices),), IDENTITY_VIEW)
    with torch.no_grad():
        pixels = render(data.train_images, torch.from_numpy(indices), views, teacher.spec.data.normalisation)
        expected = teacher.load_model()(pixels)
    torch.testing.assert_close(inputs.lookup(torch.from_numpy(indices), views), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["spec.json", "summary.json", "history.csv", "predictions.npz", "model.safetensors"])
def test_a_damaged_record_is_run_again_with_the_same_result(name):
    record = run(cnn(epochs=1))
    before = numbers(record)
    (record.path / name).write_bytes((record.path / name).read_bytes()[:50])
    with pytest.warns(UserWarning, match="set aside"):
        assert numbers(run(cnn(epochs=1))) == before


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    def interrupt(fraction):
        if fraction == 0.5:
            raise KeyboardInterrupt

    monkeypatch.setenv("KD_CHECKPOINT_SECONDS", "0")
    spec, fractions = cnn(epochs=4), []
    with pytest.raises(KeyboardInterrupt):
        run(spec, report=interrupt)
    assert find(spec) is None
    resumed = run(spec, report=fractions.append)
    assert fractions == [0.25, 0.5, 0.75, 1.0] and [folder.name for folder in settings().runs_dir.iterdir()] == [
        spec.key
    ]
    elsewhere(tmp_path, monkeypatch)
    assert numbers(run(spec)) == numbers(resumed)


def test_two_processes_may_run_the_same_spec(monkeypatch):
    monkeypatch.setenv("KD_CHECKPOINT_SECONDS", "0")
    once = []

    def the_other_finishes(fraction):
        if not once:
            once.append(fraction)
            monkeypatch.setenv("KD_CHECKPOINT_SECONDS", "1000")
            run(cnn(epochs=3))

    record = run(cnn(epochs=3), report=the_other_finishes)
    assert numbers(record) == numbers(find(cnn(epochs=3)))


def test_run_all_keeps_the_order_and_runs_equal_specs_once(tmp_path, monkeypatch):
    teacher = cnn(seed=1)
    specs = [student(teacher), cnn(), student(teacher, seed=3), teacher, student(teacher)]
    trained, train = [], runs.train
    monkeypatch.setattr(
        runs, "train", lambda model, spec, *rest, **more: trained.append(spec.key) or train(model, spec, *rest, **more)
    )
    records = run_all(iter(specs))
    assert [record.spec for record in records] == specs
    assert sorted(trained) == sorted({spec.key for spec in specs})
    assert all(trained.index(teacher.key) < trained.index(spec.key) for spec in specs if spec.teachers)
    trained.clear()
    assert [record.digest for record in run_all(specs)] == [record.digest for record in records] and not trained
    elsewhere(tmp_path, monkeypatch)
    assert [numbers(run(spec)) for spec in specs] == [numbers(record) for record in records]


def test_a_table_filled_in_shards_is_the_same(tmp_path, monkeypatch):
    expected = numbers(run(student(cnn(seed=1))))
    elsewhere(tmp_path, monkeypatch)
    monkeypatch.setattr(runs, "SHARD", 10)
    assert numbers(run_all([student(cnn(seed=1))])[0]) == expected


def test_run_all_of_nothing_is_nothing():
    assert run_all([]) == []


@pytest.mark.parametrize("given", [cnn(), "small_cnn", {"alone": [cnn()]}, [run], [None]])
def test_what_is_no_list_of_specs_is_one_sentence(given):
    with pytest.raises(InputError, match=f"a list of RunSpecs is needed, got a {type(given).__name__} with a "):
        run_all(given)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " ", "²"])
def test_a_senseless_number_of_workers_is_refused(monkeypatch, value):
    monkeypatch.setenv("KD_WORKERS", value)
    with pytest.raises(InputError, match="(?i)KD_WORKERS"):
        workers()


def killed_at(fraction_of_death: float, environment: dict[str, str]) -> None:
    """A process's whole life: a run that is killed when it has advanced so far, or while it saves its record."""
    os.environ.update(environment)
    torch.set_num_threads(1)

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    if fraction_of_death > 1:
        from kdutils.runs import records

        records.save = die
    run(cnn(epochs=4), report=lambda fraction: die() if fraction == fraction_of_death else None)


@pytest.mark.parametrize("fraction_of_death", [0.75, 2.0], ids=["training", "saving"])
def test_a_killed_process_leaves_no_half_record_and_the_next_ends_with_the_same_numbers(
    tmp_path, monkeypatch, fraction_of_death
):
    torch.set_num_threads(1)
    environment = {name: os.environ[name] for name in ("KD_DATA_DIR", "KD_RUNS_DIR")} | {"KD_CHECKPOINT_SECONDS": "0"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdutils.runs.run"])
    process = context.Process(target=killed_at, args=(fraction_of_death, environment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and find(cnn(epochs=4)) is None
    fractions = []
    resumed = run(cnn(epochs=4), report=fractions.append)
    assert fractions[0] >= 0.25  # it did go on, not begin again
    elsewhere(tmp_path, monkeypatch)
    assert numbers(run(cnn(epochs=4))) == numbers(resumed)


def test_a_record_made_from_other_data_is_set_aside_and_run_again(monkeypatch):
    made = run(cnn())
    images = np.load(Path(os.environ["KD_DATA_DIR"]) / "cifar10" / "train_images.npy")
    images[0] ^= 255
    folder = Path(os.environ["KD_DATA_DIR"]) / "cifar10"
    np.save(folder / "train_images.npy", images)
    (folder / "SHA256").unlink(missing_ok=True)
    with pytest.warns(UserWarning, match="digest"):
        assert find(cnn()) is None
    again = run(cnn())
    assert again.summary["data"]["digest"] == load_dataset("cifar10").digest != made.summary["data"]["digest"]


def train_anew(spec: RunSpec) -> None:
    """As if the recorded run had been made again, elsewhere, with slightly other weights."""
    other = find(spec).load_model()
    with torch.no_grad():
        other.fc2.bias += 1
    path = find(spec).path
    summary = json.loads((path / "summary.json").read_text())
    save_file(other.state_dict(), path / "model.safetensors")
    summary["files"]["model.safetensors"] = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    summary["digest"] = records._digest(summary)
    (path / "summary.json").write_text(json.dumps(summary))


def test_a_student_whose_teacher_was_trained_anew_is_run_again():
    teacher = cnn(seed=5)
    run(student(teacher))
    train_anew(teacher)
    with pytest.warns(UserWarning, match="which it rests on, has been trained anew"):
        assert find(student(teacher)) is None


@pytest.mark.parametrize("text", ['{"files": {', "[]", "{}"])
def test_a_damaged_record_of_a_teacher_costs_its_students_nothing(text):
    teacher = cnn(seed=5)
    made = run(student(teacher))
    (find(teacher).path / "summary.json").write_text(text)
    assert find(student(teacher)) == made


def test_a_student_whose_teacher_s_weights_have_changed_is_run_again_with_it(tmp_path):
    file = tmp_path / "start.pth"
    torch.save(run(x4(seed=4)).load_model().state_dict(), file)
    teacher = x4(init=f"file:{file}", optimiser=STILL)
    taught = student(teacher, data=teacher.data)
    before = run(taught).digest
    torch.save(run(x4(seed=5)).load_model().state_dict(), file)
    with pytest.warns(UserWarning, match=f"the weights {teacher.key} started from have changed"):
        found = run_all([teacher, taught])  # both in one call: no student of the old teacher beside the new one
    assert found[1].summary["teachers"] == {teacher.key: found[0].digest} and found[1].digest != before


def test_networks_that_are_only_evaluated_and_differ_in_an_option_alone_share_no_table(tmp_path):
    file, specs = tmp_path / "teacher.pth", []
    torch.save(build_model("resnet18", 10, stem="cifar").state_dict(), file)
    for stem in ("cifar", "cifar_pool"):  # a pooling has no weights
        model = ModelSpec(name="resnet18", options={"stem": stem})
        specs.append(cnn(data=FEW, model=model, init=f"file:{file}", epochs=0))
    first, second = run_all(specs)
    assert first.digest == second.digest
    assert len({resolving.open_table(spec, Store())[0].folder for spec in specs}) == 2


def test_a_checkpoint_of_another_arithmetic_is_not_gone_on_from(monkeypatch):
    class Stopped(Exception):
        pass

    def stop(fraction):
        if fraction == 1:  # the end of the second epoch
            raise Stopped

    monkeypatch.setenv("KD_CHECKPOINT_SECONDS", "0")
    spec = cnn(epochs=2)
    half, full = (Runtime(torch.device("cpu"), dtype) for dtype in (torch.bfloat16, torch.float32))
    monkeypatch.setattr(resolving, "detect_runtime", lambda: half)
    with pytest.raises(Stopped):
        run(spec, report=stop)
    assert (Store().folder / f"{spec.key}.partial" / "checkpoint.safetensors").is_file()
    monkeypatch.setattr(resolving, "detect_runtime", lambda: full)
    mixed = run(spec)
    shutil.rmtree(mixed.path)
    assert run(spec).digest == mixed.digest


STILL = OptimiserSpec(name="sgd", learning_rate=1e-30)


def test_a_run_goes_on_from_the_weights_of_another_and_names_it():
    start, spec = cnn(seed=5), cnn(init=cnn(seed=5), optimiser=STILL, epochs=1)
    record = run(spec)
    assert record.digest == find(start).digest != run(cnn(optimiser=STILL, epochs=1)).digest
    assert record.metric("test") == find(start).metric("test")
    assert record.summary["start"] == {start.key: find(start).digest} and start.key in record.summary["weights"]
    assert find(spec).spec == spec and "start" not in find(start).summary
    onwards = run(cnn(init=start))
    assert onwards.digest != record.digest and onwards.history["train_loss"][0] < find(start).history["train_loss"][0]


def x4(name: str = "cifar10", **changes) -> RunSpec:
    return cnn(**{"data": FEW.with_(name=name), "model": ModelSpec(name="resnet8x4"), "epochs": 1} | changes)


def test_from_another_data_set_a_run_takes_all_but_the_classifier(cifar):
    hundred = cifar.parent / "cifar100"
    shutil.copytree(cifar, hundred)
    (hundred / "classes.txt").write_text("".join(f"class {number}\n" for number in range(100)))
    start = x4("cifar100")
    record = run(x4(init=start, optimiser=STILL))
    ours, theirs, fresh = (
        record.load_model().state_dict(),
        find(start).load_model().state_dict(),
        run(x4(optimiser=STILL)).load_model().state_dict(),
    )
    assert len(theirs["fc.bias"]) == 100 and torch.equal(ours["fc.weight"], fresh["fc.weight"])
    trained = [name for name in ours if name.endswith("conv1.weight")]
    assert trained and all(
        torch.equal(ours[name], theirs[name]) and not torch.equal(ours[name], fresh[name]) for name in trained
    )
    assert record.summary["start"] == {start.key: find(start).digest}


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_file_gives_the_weights_and_is_named_and_followed_when_it_changes(tmp_path, epochs):
    trained, file = run(x4(seed=4)), tmp_path / "teacher.pth"
    torch.save({"model": trained.load_model().state_dict()}, file)
    spec = x4(init=f"file:{file}", epochs=epochs, optimiser=STILL)
    record = run(spec)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    assert record.summary["weights"] == f"teacher.pth (SHA-256 {digest})"
    if epochs == 0:  # evaluated as it is
        assert record.summary["metrics"] == {split: trained.summary["metrics"][split] for split in ("val", "test")}
        assert np.array_equal(record.predictions[0], trained.predictions[0]) and list(record.history["epoch"]) == [0]
        assert record.summary["images_per_second"] == 0.0 and find(spec).spec == spec
        assert run_all([spec])[0].digest == record.digest  # no work at all, and a bar for it
        assert run(student(spec, data=spec.data)).summary["teachers"] == {spec.key: record.digest}
    torch.save({"model": run(x4(seed=5)).load_model().state_dict()}, file)
    with pytest.warns(UserWarning, match="the weights .* started from have changed: teacher.pth"):
        assert run(spec).digest != record.digest
    file.unlink()
    assert find(spec) is not None  # a recorded run does not need its file any more


def test_weights_that_are_not_finite_are_refused(tmp_path):
    weights = build_model("small_cnn", 10).state_dict()
    weights["fc2.bias"][0] = float("nan")
    torch.save(weights, tmp_path / "nan.pth")
    with pytest.raises(InputError, match="nan.pth: its network's logits are not finite"):
        run(cnn(init=f"file:{tmp_path / 'nan.pth'}", epochs=0))


def test_another_number_of_classes_than_the_data_have_is_refused(monkeypatch):
    known = load_dataset("cifar10")
    monkeypatch.setattr(resolving, "load_dataset", lambda name: dataclasses.replace(known, classes=known.classes[:3]))
    with pytest.raises(InputError, match="has 3 classes, not 10"):
        run(cnn())


def test_a_store_that_cannot_be_written_is_one_sentence(monkeypatch):
    def refused(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    store = Store()
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(InputError, match="cannot be written .Permission denied.: set KD_RUNS_DIR"):
        run(cnn(), store)


def test_a_run_whose_start_was_trained_anew_is_run_again():
    start = cnn(seed=5)
    spec = cnn(init=start, optimiser=STILL, epochs=1)
    before = run(spec).digest
    train_anew(start)
    with pytest.warns(UserWarning, match="which it rests on, has been trained anew"):
        assert find(spec) is None
    assert run(spec).digest == find(start).digest != before


def test_run_all_trains_first_what_others_go_on_from(monkeypatch):
    first, trained, train = cnn(seed=1), [], runs.train
    second = cnn(init=first)
    third = student(cnn(seed=2), init=second)
    fourth = student(third, seed=9)
    monkeypatch.setattr(
        runs, "train", lambda model, spec, *rest, **more: trained.append(spec.key) or train(model, spec, *rest, **more)
    )
    records = run_all([fourth, third, second])
    assert [record.spec for record in records] == [fourth, third, second] and len(trained) == 5
    assert [trained.index(spec.key) for spec in (first, second, third, fourth)] == sorted(
        trained.index(spec.key) for spec in (first, second, third, fourth)
    )
    assert records[1].summary["start"] == {second.key: records[2].digest}


def bonn(**changes) -> RunSpec:
    data = DataSpec(name="cifar10", train_size=24, val_size=8, test_size=8, views=3)
    return cnn(
        **{
            "data": data,
            "model": ModelSpec(name="wrn_16_1", options={"precision": "bonn", "dropout": 0.3}),
            "bayesian": Bayesian(),
        }
        | changes
    )


def test_a_record_of_a_bayesian_run_holds_its_network_alone():
    first = bonn()
    record = run(bonn(init=first, bayesian=Bayesian(feature_weight=1e-2), test_curve=True))
    columns = ["train_ce", "train_kernel", "train_feature", "test_loss", "test_accuracy"]
    assert record.history[columns].notna().all(axis=None)
    assert {name: record.history[f"test_{name}"].iloc[-1] for name in ("loss", "accuracy")} == pytest.approx(
        record.summary["metrics"]["test"]
    )
    state = load_file(record.path / "model.safetensors")
    assert set(state) == set(record.load_model().state_dict()) and not any("prior" in name for name in state)
    assert {
        "layers.0.conv.weight",
        "layers.0.conv.log_modulation",
        "layers.0.conv.mu",
        "layers.0.conv.raw_sigma",
        "layers.4.shortcut.weight",
    } < set(state)
    assert "train_feature" not in find(first).history


def test_an_interrupted_bayesian_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    def interrupt(fraction):
        if fraction == 2 / 3:
            raise KeyboardInterrupt

    monkeypatch.setenv("KD_CHECKPOINT_SECONDS", "0")
    spec, fractions = bonn(epochs=3, bayesian=Bayesian(feature_weight=1e-2), init=bonn(epochs=1)), []
    with pytest.raises(KeyboardInterrupt):
        run(spec, report=interrupt)
    resumed = run(spec, report=fractions.append)
    assert fractions == [1 / 3, 2 / 3, 1.0]
    elsewhere(tmp_path, monkeypatch)
    assert numbers(run(spec)) == numbers(resumed)


def test_a_record_is_found_where_its_data_are_not(monkeypatch, tmp_path):
    made = run(cnn())
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "nothing"))
    assert find(cnn()).digest == made.digest


def test_heads_on_other_random_backbones_have_tables_of_their_own():
    network, data = ModelSpec(name="resnet18", options={"stem": "resized"}), DataSpec(name="synthetic", train_size=20)
    head = cnn(model=network, data=data, trainable="head")
    heads = [head, head.with_(seed=1), head.with_(epochs=3)]
    _, tables = plan({each.key: each for each in heads}, {"synthetic": load_dataset("synthetic")})
    assert len(tables) == 2 and len({open_table(each, Store())[0].folder for each in heads}) == 2


def test_a_table_that_would_not_fit_on_the_disk_is_refused_before_it_is_filled(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(InputError, match="tables.*free space"):
        run(student(cnn(seed=5)))
    assert find(cnn(seed=5))
