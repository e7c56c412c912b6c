"""A teacher's table holds exactly what the teacher would say, wherever and in whatever order it was filled."""

from __future__ import annotations

import binascii
import copy
import os
import shutil

import numpy as np
import pytest
import torch

from kdutils.data.datasets import Dataset
from kdutils.data.views import IDENTITY_VIEW, epoch_stream, render, split_indices
from kdutils.distillation.methods import KD
from kdutils.distillation.tables import HeadTable, ViewTable
from kdutils.errors import InputError
from kdutils.machine import Runtime
from kdutils.networks.registry import build_model
from kdutils.specs import DataSpec, Distillation, ModelSpec, RunSpec
from kdutils.training.inputs import looked_up

FLOAT32 = Runtime(torch.device("cpu"), torch.float32)
BFLOAT16 = Runtime(torch.device("cpu"), torch.bfloat16)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    random = np.random.RandomState(0)
    images = [torch.from_numpy(random.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)) for count in (60, 20)]
    labels = [torch.arange(count, dtype=torch.uint8) % 10 for count in (60, 20)]
    return Dataset("synthetic", tuple("abcdefghij"), images[0], labels[0], images[1], labels[1], digest="test")


@pytest.fixture(scope="module")
def teacher() -> torch.nn.Module:
    torch.manual_seed(1)
    return build_model("small_cnn", 10)


class Counting(torch.nn.Module):
    """A teacher that counts its forward passes and may be killed after some."""

    def __init__(self, model, lifetime=None):
        super().__init__()
        self.model, self.batches, self.lifetime = model, 0, lifetime

    def forward(self, images):
        if self.batches == self.lifetime:
            raise KeyboardInterrupt
        self.batches += 1
        return self.model(images)


def some_codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).permutation(60 * 162)[:count]


def direct(teacher, dataset, codes) -> torch.Tensor:
    with torch.inference_mode():
        return teacher.eval()(
            render(dataset.train_images, torch.from_numpy(codes // 162), torch.from_numpy(codes % 162), "half")
        )


def read(table, codes) -> np.ndarray:
    return table.values[codes // 162, codes % 162].copy()


def test_the_table_says_what_the_teacher_says(tmp_path, dataset, teacher):
    codes, table = some_codes(200), ViewTable(tmp_path, 60, 10)
    assert table.fill(teacher, dataset, codes, "half", FLOAT32) == 200
    looked_up = table.lookup(torch.from_numpy(codes // 162), torch.from_numpy(codes % 162))
    assert looked_up.dtype == torch.float32
    torch.testing.assert_close(
        looked_up, direct(teacher, dataset, codes), rtol=1e-3, atol=1e-5
    )  # float16 keeps 11 bits


@pytest.mark.parametrize("runtime", [FLOAT32, BFLOAT16], ids=lambda runtime: runtime.name)
@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_an_entry_does_not_depend_on_what_was_filled_with_it(tmp_path, dataset, name, runtime):
    torch.manual_seed(2)
    model = build_model(name, 10, **({"stem": "imagenet"} if name == "resnet18" else {}))
    codes = some_codes(20)
    tables = [ViewTable(tmp_path / kind, 60, 10) for kind in ("together", "pieces")]
    tables[0].fill(model, dataset, codes, "half", runtime)
    for piece in (codes[13:], codes):
        tables[1].fill(model, dataset, piece, "half", runtime)
    assert np.array_equal(read(tables[0], codes).view(np.uint16), read(tables[1], codes).view(np.uint16))
    assert np.abs(read(tables[0], codes)).min() > 0


def test_only_what_is_asked_for_is_filled_and_nothing_twice(tmp_path, dataset, teacher):
    table, model = ViewTable(tmp_path, 60, 10), Counting(teacher)
    first, more = some_codes(300), some_codes(330)
    assert table.fill(model, dataset, first, "half", FLOAT32) == 300 and model.batches == 3
    assert sorted(np.flatnonzero(table.checksums)) == sorted(first)
    assert table.fill(model, dataset, np.concatenate([first, first]), "half", FLOAT32) == 0 and model.batches == 3
    assert table.fill(model, dataset, more, "half", FLOAT32) == 30 and model.batches == 4
    assert table.missing(more).size == 0 and np.count_nonzero(table.checksums) == 330


def test_progress_rises_to_one(tmp_path, dataset, teacher):
    fractions = []
    ViewTable(tmp_path, 60, 10).fill(teacher, dataset, some_codes(300), "half", FLOAT32, fractions.append)
    assert fractions == sorted(fractions) and fractions[0] == 0 and len(fractions) == 4 and fractions[-1] == 1.0


def test_the_teacher_speaks_in_evaluation_mode(tmp_path, dataset):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(3072, 10)).train()
    codes, table = some_codes(20), ViewTable(tmp_path, 60, 10)
    table.fill(model, dataset, codes, "half", FLOAT32)
    np.testing.assert_allclose(read(table, codes), direct(model, dataset, codes), atol=2e-3)


def test_looking_up_what_is_not_filled_is_an_error(tmp_path, dataset, teacher):
    table = ViewTable(tmp_path, 60, 10)
    table.fill(teacher, dataset, np.array([5 * 162 + 80]), "half", FLOAT32)
    table.lookup(torch.tensor([5]), torch.tensor([80]))
    with pytest.raises(InputError, match="not filled.*again"):
        table.lookup(torch.tensor([5, 5]), torch.tensor([80, 81]))


def test_all_handles_share_one_file(tmp_path, dataset, teacher):
    one, other = ViewTable(tmp_path, 60, 10), ViewTable(tmp_path, 60, 10)
    codes, model = some_codes(100), Counting(teacher)
    one.fill(model, dataset, codes[:60], "half", FLOAT32)
    assert other.missing(codes).tolist() == sorted(codes[60:])
    other.fill(model, dataset, codes, "half", FLOAT32)
    assert one.missing(codes).size == 0 and np.array_equal(read(one, codes), read(other, codes))
    assert np.array_equal(read(ViewTable(tmp_path, 60, 10), codes), read(one, codes))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checksums.npy", "seconds.txt", "values.npy"]


def test_opening_a_table_late_does_not_empty_it(tmp_path, dataset, teacher, monkeypatch):
    """Two processes may find no file at once; the slower one must not replace what the other began to fill."""
    codes = some_codes(30)
    make, done = np.lib.format.open_memmap, []

    def make_and_lose_the_race(path, *arguments, **keywords):
        array = make(path, *arguments, **keywords)
        if keywords.get("shape") and not done:
            done.append(path)
            ViewTable(tmp_path, 60, 10).fill(teacher, dataset, codes, "half", FLOAT32)
        return array

    monkeypatch.setattr(np.lib.format, "open_memmap", make_and_lose_the_race)
    slow = ViewTable(tmp_path, 60, 10)
    assert done and slow.missing(codes).size == 0 and np.abs(read(slow, codes)).min() > 0


def test_what_was_filled_before_a_kill_stays_and_the_rest_is_computed(tmp_path, dataset, teacher, monkeypatch):
    monkeypatch.setattr("kdutils.distillation.tables.SHARD", 128)
    codes = some_codes(300)
    with pytest.raises(KeyboardInterrupt):
        ViewTable(tmp_path, 60, 10).fill(Counting(teacher, lifetime=1), dataset, codes, "half", FLOAT32)
    table, model = ViewTable(tmp_path, 60, 10), Counting(teacher)
    assert np.count_nonzero(table.checksums) == 128
    assert table.fill(model, dataset, codes, "half", FLOAT32) == 172 and model.batches == 2


def test_values_without_their_checksum_are_computed_again(tmp_path, dataset, teacher):
    """As a process leaves them that was killed after writing a batch's values, before its marks."""
    codes, table = some_codes(10), ViewTable(tmp_path, 60, 10)
    table.values[codes // 162, codes % 162] = 123
    assert table.fill(teacher, dataset, codes, "half", FLOAT32) == 10
    np.testing.assert_allclose(read(table, codes), direct(teacher, dataset, codes), rtol=1e-3, atol=1e-5)


def test_values_are_on_the_disk_before_their_checksums(tmp_path, dataset, teacher, monkeypatch):
    monkeypatch.setattr("kdutils.distillation.tables.SHARD", 128)
    table, order = ViewTable(tmp_path, 60, 10), []

    class Noting:
        def __init__(self, array, name):
            self.array, self.name = array, name

        def __getitem__(self, where):
            return self.array[where]

        def __setitem__(self, where, value):
            order.append(self.name)
            self.array[where] = value

        def flush(self):
            order.append(f"{self.name} on disk")
            self.array.flush()

        def __getattr__(self, name):
            return getattr(self.array, name)

    table.values, table.checksums = Noting(table.values, "values"), Noting(table.checksums, "checksums")
    table.fill(teacher, dataset, some_codes(200), "half", FLOAT32)
    assert order == ["values", "values on disk", "checksums", "checksums on disk"] * 2


def test_a_runs_codes_are_what_its_epochs_show(dataset):
    data = DataSpec(name="synthetic", train_size=30, val_size=20, views=3)
    spec = RunSpec(data=data, model=ModelSpec(name="small_cnn"), epochs=3, seed=2)
    train, val = split_indices(dataset.train_labels, *data.split)
    expected = set()
    for epoch in range(3):
        order, views = epoch_stream(train, 3, 2, epoch)
        expected |= {(image, view) for image, view in zip(order.tolist(), views.tolist())}
    assert {divmod(code, 162) for code in looked_up(spec, train).tolist()} == expected
    assert looked_up(spec, train, val).tolist() == looked_up(spec, train).tolist(), "a student asks nobody about them"
    head = spec.with_(model=ModelSpec(name="resnet18", options={"stem": "resized"}), trainable="head", init="imagenet")
    evaluated = set(looked_up(head, train, val).tolist()) - set(looked_up(spec, train).tolist())
    assert {divmod(code, 162) for code in evaluated} == {(image, IDENTITY_VIEW) for image in val}


def test_students_of_any_seed_temperature_and_weight_look_at_the_same_entries(dataset):
    alone = RunSpec(
        data=DataSpec(name="synthetic", train_size=30, views=8), model=ModelSpec(name="small_cnn"), epochs=2
    )
    kd = Distillation(teachers=(alone,), method=KD(temperature=2.0, kd_weight=0.5))
    variants = [
        alone,
        *(
            alone.with_(**change)
            for change in ({"seed": 1}, {"distillation": kd}, {"model": ModelSpec(name="resnet18")})
        ),
    ]
    assert len({looked_up(spec, np.arange(30)).tobytes() for spec in variants}) == 1


def test_a_heads_logits_come_from_its_backbones_features(dataset, tmp_path):
    torch.manual_seed(0)
    model = build_model("resnet18", 10, stem="resized", size=40).eval()
    backbone = copy.deepcopy(model)
    backbone.fc = torch.nn.Identity()
    codes, features = some_codes(6), ViewTable(tmp_path, 60, 512)
    features.fill(backbone, dataset, codes, "half", FLOAT32)
    images, views = (torch.from_numpy(part) for part in np.divmod(codes, 162))
    head = HeadTable(features, model.fc.weight, model.fc.bias)
    found = head.lookup(images, views)
    with torch.no_grad():
        expected = model(render(dataset.train_images, images, views, "half"))
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)
    with pytest.raises(InputError, match="not filled.*again"):
        head.lookup(images, (views + 1) % 162)


def test_the_seconds_of_entries_are_those_that_were_measured(dataset, tmp_path, monkeypatch):
    now = iter(range(0, 1000, 5))
    monkeypatch.setattr("kdutils.distillation.tables.time.monotonic", lambda: float(next(now)))
    model, table = build_model("small_cnn", 10), ViewTable(tmp_path, 60, 10)
    assert table.seconds(7) == 0
    table.fill(model, dataset, some_codes(20), "half", FLOAT32)
    assert table.seconds(20) == pytest.approx(5) and table.seconds(40) == pytest.approx(10)
    table.fill(model, dataset, some_codes(20), "half", FLOAT32)  # nothing was missing
    assert ViewTable(tmp_path, 60, 10).seconds(20) == pytest.approx(5)


@pytest.mark.parametrize("columns", [10, 2048])
def test_what_a_table_is_about_to_take_on_the_disk_must_be_free(dataset, tmp_path, monkeypatch, columns):
    codes, network = np.arange(60) * 162 + 7, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, columns))

    def taken() -> int:
        return sum(512 * (tmp_path / "one" / name).stat().st_blocks for name in ("values.npy", "checksums.npy"))

    table = ViewTable(tmp_path / "one", 60, columns)
    before = taken()
    table.fill(network, dataset, codes, "half", FLOAT32)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, taken() - before - 1))
    with pytest.raises(InputError, match="free space"):
        ViewTable(tmp_path / "other", 60, columns).fill(network, dataset, codes, "half", FLOAT32)


def test_a_value_too_large_for_a_table_is_refused_and_not_marked(dataset, tmp_path):
    class Sure(torch.nn.Module):
        def forward(self, images):
            return torch.full((len(images), 10), 7e4)

    table = ViewTable(tmp_path, 60, 10)
    with pytest.raises(InputError, match="up to 65,504, and the network says 70,000"):
        table.fill(Sure(), dataset, some_codes(20), "half", FLOAT32)
    assert not table.checksums.any()


def test_a_table_that_was_cut_short_is_refused(dataset, tmp_path):
    ViewTable(tmp_path, 60, 10).fill(build_model("small_cnn", 10), dataset, some_codes(20), "half", FLOAT32)
    values = tmp_path / "values.npy"
    os.truncate(values, values.stat().st_size // 2)
    for _ in range(2):
        with pytest.raises(InputError, match="values.npy is damaged"):
            ViewTable(tmp_path, 60, 10)


def test_a_table_that_lost_its_values_is_refused(dataset, tmp_path):
    ViewTable(tmp_path, 60, 10).fill(build_model("small_cnn", 10), dataset, some_codes(20), "half", FLOAT32)
    (tmp_path / "values.npy").unlink()
    for _ in range(2):
        with pytest.raises(InputError, match="has lost its values.npy: remove the folder"):
            ViewTable(tmp_path, 60, 10)


@pytest.mark.parametrize("bit", [0, 9, 15])
def test_an_entry_that_has_changed_on_the_disk_teaches_nobody_and_is_computed_again(dataset, tmp_path, teacher, bit):
    codes, table = some_codes(20), ViewTable(tmp_path, 60, 10)
    table.fill(teacher, dataset, codes, "half", FLOAT32)
    images, views = (torch.from_numpy(part) for part in np.divmod(codes, 162))
    expected = table.lookup(images, views)
    file = np.load(tmp_path / "values.npy", mmap_mode="r+").view(np.uint16)
    file[images[7], views[7], 3] ^= 1 << bit
    file.flush()
    late = ViewTable(tmp_path, 60, 10)
    assert torch.equal(late.lookup(images[:7], views[:7]), expected[:7])
    with pytest.raises(InputError, match="has changed on the disk: give the same command again"):
        late.lookup(images, views)
    assert late.missing(codes).tolist() == [codes[7]]
    assert late.fill(teacher, dataset, codes, "half", FLOAT32) == 1
    assert torch.equal(late.lookup(images, views), expected)


def test_an_entry_that_another_process_has_filled_meanwhile_is_left_as_it_is(dataset, tmp_path, teacher):
    """Of two commands on one store, which may compute other last bits, the slower one is killed."""
    rounded, codes = copy.deepcopy(teacher), some_codes(300)
    with torch.no_grad():
        rounded.fc2.bias.mul_(1.01)
    quick, slow = ViewTable(tmp_path, 60, 10), ViewTable(tmp_path, 60, 10)

    def report(fraction):
        if fraction == 0:
            quick.fill(teacher, dataset, codes, "half", FLOAT32)
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slow.fill(rounded, dataset, codes, "half", FLOAT32, report)
    images, views = (torch.from_numpy(part) for part in np.divmod(codes, 162))
    found = ViewTable(tmp_path, 60, 10).lookup(images, views)
    torch.testing.assert_close(found, direct(teacher, dataset, codes), rtol=1e-3, atol=1e-5)


def test_checksums_are_those_of_the_bytes(dataset, tmp_path):
    codes, table = some_codes(20), ViewTable(tmp_path, 60, 10)
    table.fill(build_model("small_cnn", 10), dataset, codes, "half", FLOAT32)
    found = [binascii.crc32(read(table, codes[n : n + 1]).tobytes()) for n in range(20)]
    assert table.checksums[np.divmod(codes, 162)].tolist() == found


def test_a_line_of_seconds_that_was_cut_short_is_left_out(tmp_path):
    table = ViewTable(tmp_path, 60, 10)
    (tmp_path / "seconds.txt").write_text("500 1.0\n300 3.0\n40")
    assert table.seconds(80) == pytest.approx(80 * 4.0 / 800)


def test_no_entry_is_marked_whose_seconds_could_not_be_written(dataset, tmp_path):
    table = ViewTable(tmp_path, 60, 10)
    (tmp_path / "seconds.txt").mkdir()
    with pytest.raises(OSError):
        table.fill(build_model("small_cnn", 10), dataset, some_codes(20), "half", FLOAT32)
    assert not table.checksums.any() and table.seconds(20) == 0


def test_a_folder_without_hard_links_and_a_damaged_file_are_one_sentence(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="no hard links .Operation not supported"):
        patch.setattr("kdutils.distillation.tables.os.link", refused)
        ViewTable(tmp_path / "table", 3, 2)
    assert not list((tmp_path / "table").iterdir())
    ViewTable(tmp_path / "table", 3, 2)
    (tmp_path / "table" / "values.npy").write_bytes(b"")
    with pytest.raises(InputError, match="values.npy is damaged .*: remove its folder"):
        ViewTable(tmp_path / "table", 3, 2)
