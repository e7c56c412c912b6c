"""How fast the suite distils, beside the plain loop of the PyTorch tutorials: same networks, images, views, batches;
what training a binary network costs beside its full-precision twin; and what a chapter tells of cost: `scaling_table`,
`inference_table` and `grid_needs`.

`benchmark` has study A's task: `small_cnn` learns from ResNet18 with the study's stem, `cifar_pool` (the cheaper `imagenet`
stem is a parameter), at batch 32 with Adam, T = 4, weight 0.7 and 162 views; `benchmark_cifar100` study D's: `cnn4` learns
from ResNet32x4 at batch 128 with SGD, T = 4, weight 0.75 and 162 views. Random weights: they do not change speed.
"""

from __future__ import annotations

import copy
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle, repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from kdutils.baseline import loaded_batches, network, resident_batches, teach, teacher_network
from torch import nn

from kdutils import jobs
from kdutils.data.datasets import Dataset, is_cached, load_dataset
from kdutils.data.views import split_indices
from kdutils.distillation.methods import KD
from kdutils.distillation.tables import FILL_BATCH, ViewTable
from kdutils.errors import InputError
from kdutils.machine import Runtime, cores, detect_runtime
from kdutils.networks.counting import accounting
from kdutils.networks.registry import build_model
from kdutils.runs.records import Record, environment
from kdutils.runs.run import run
from kdutils.specs import DataSpec, ModelSpec, RunSpec
from kdutils.studies import Study, study
from kdutils.studies.base import taught
from kdutils.training.inputs import training_codes
from kdutils.training.loop import train


def plain(spec: RunSpec, loaders: int = 0) -> float:
    """Images per second of the plain arm: PIL, DataLoader, float32, the teacher's forward pass in every step."""
    batches = loaded_batches(spec, load_dataset(spec.data.name), loaders)
    return teach(spec, batches, Runtime(detect_runtime().device, torch.float32), torch.contiguous_format)[0]


def distil(spec: RunSpec, folder: Path) -> float:
    """Images per second of `kdutils.training.train` with the filled table in `folder`."""
    dataset = load_dataset(spec.data.name)
    return train(network(spec), spec, dataset, detect_runtime(), [_table(spec, dataset, folder)]).images_per_second


def fill(spec: RunSpec, folder: Path, codes: np.ndarray) -> float:
    """Entries per second at which the table in `folder` is filled at `codes` (image * 162 + view), int64 [N]."""
    dataset = load_dataset(spec.data.name)
    return _fill(teacher_network(spec), spec, dataset, _table(spec, dataset, folder), codes)


def _fill(teacher: nn.Module, spec: RunSpec, dataset: Dataset, table: ViewTable, codes: np.ndarray) -> float:
    began = time.perf_counter()
    return table.fill(teacher, dataset, codes, spec.data.normalisation, detect_runtime()) / (
        time.perf_counter() - began
    )


def _table(spec: RunSpec, dataset: Dataset, folder: Path) -> ViewTable:
    return ViewTable(folder, len(dataset.train_labels), spec.data.num_classes)


def student_spec(images: int, epochs: int, seed: int = 0, stem: str = "cifar_pool") -> RunSpec:
    """The study's student in the benchmark's size, on CIFAR-10 where it lies, else on the synthetic data."""
    data = DataSpec(name="cifar10" if is_cached("cifar10") else "synthetic", train_size=images, test_size=250)
    plan = study("assignment", "paper", data=data, epochs=epochs, init="random")
    return taught(plan.small_cnn(seed), KD(temperature=4.0, kd_weight=0.7), plan.resnet("resnet18", stem=stem))


def study_size(study: Study, grid: list[RunSpec]) -> dict[str, int]:
    """How many `images` the `students` of one table see in a study, and how many `entries` they need.

    Counted are the grid's taught students and its best cell's further seeds. All see the same views
    (`kdutils.data.epoch_stream`), so one student's entries are everybody's.
    """
    dataset, taught = load_dataset(study.data.name), [spec for spec in grid if spec.teachers]
    students, shown = len(taught) + len(study.seeds) - 1, len(split_indices(dataset.train_labels, study.data)[0])
    return {
        "students": students,
        "images": students * study.epochs * shown,
        "entries": len(training_codes(taught[0], dataset)),
    }


def _sized(spec: RunSpec, images: int, epochs: int) -> RunSpec:
    """`spec` on so many training images for so many epochs, its schedule and its teachers as they are."""
    data = DataSpec(**dict(spec.data) | {"train_size": images, "val_size": 0, "test_size": 250})
    return RunSpec(**dict(spec) | {"data": data, "epochs": epochs})


def _copies(spec: RunSpec, count: int) -> list[RunSpec]:
    return [RunSpec(**dict(spec) | {"seed": spec.seed + number}) for number in range(count)]


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kdutils-") as name:
        yield Path(name)


@contextmanager
def _processes(count: int, threads: int, spec: RunSpec, folder: Path) -> Iterator[list[ProcessPoolExecutor]]:
    """So many processes of so many threads, each warm from a run of one batch of `spec`'s student, without its teachers."""
    alone, context = (
        _sized(RunSpec(**dict(spec) | {"distillation": None}), spec.batch_size, 1),
        get_context("forkserver"),
    )
    context.set_forkserver_preload(["kdutils.benchmark"])  # PyTorch is imported once, not once for each
    settings = {
        name: value for name, value in os.environ.items() if name.startswith("KD_")
    }  # the fork server has older ones
    with ExitStack() as stack:
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, context, _begin, (threads, settings))) for _ in range(count)
        ]
        _together(pools, _timed_run, _copies(alone, count), repeat(folder / "warm"))
        yield pools


def _begin(threads: int, settings: dict[str, str]) -> None:
    os.environ.update(settings)
    os.environ.pop("KD_USED_RUNS", None)  # what is run for its time is no result of the chapter that asks
    torch.set_num_threads(threads)


def _together(
    pools: Iterable[ProcessPoolExecutor], function: Callable[..., float], *arguments: Iterable
) -> list[float]:
    """What `function` returns for each row of the arguments, in these processes by turns."""
    futures = [pool.submit(function, *own) for *own, pool in zip(*arguments, cycle(pools))]
    return [future.result() for future in futures]


def _timed_run(spec: RunSpec, folder: Path) -> float:
    """In a worker: seconds that the run takes, from its spec to its record in the store `folder`."""
    os.environ["KD_RUNS_DIR"] = str(folder)
    began = time.perf_counter()
    run(spec)
    return time.perf_counter() - began


def _measure(rates: dict[str, float], title: str, rate: Callable[[], float], times: int = 1) -> None:
    """Add the median of `times` measurements to `rates`, and print it."""
    rates[title] = statistics.median(rate() for _ in range(times))
    print(f"{title:<40s}{rates[title]:12,.0f} /s", flush=True)


def _arms(specs: list[RunSpec], plain_specs: list[RunSpec], students: int) -> dict[str, float]:
    """Both arms in each of their ways to use the machine: images per second (of the filling, entries).

    Each list holds a spec for every process of those side by side, which share the threads.
    """
    rates, count = {}, len(specs)
    many, rounds = f"{count} side by side", max(1, students // count)
    with _folder() as folder, _processes(count, max(1, cores() // count), specs[0], folder) as pools:
        for loaders in (0, cores()):
            _measure(rates, f"plain, one process, {loaders} loaders", lambda: plain(plain_specs[0], loaders))
        _measure(rates, f"plain, {many}", lambda: sum(_together(pools, plain, plain_specs)))
        shards = np.array_split(training_codes(specs[0], load_dataset(specs[0].data.name)), count)
        _measure(rates, f"filling, {many}", lambda: sum(_together(pools, fill, specs, repeat(folder), shards)))
        _measure(rates, "kdutils, one process", lambda: distil(specs[0], folder), rounds)
        _measure(rates, f"kdutils, {many}", lambda: sum(_together(pools, distil, specs, repeat(folder))), rounds)
    return rates


def _ladder(spec: RunSpec, first: float, last: float) -> list[dict]:
    """One process with all threads, one thing added at a time; the first and the last rung are arms."""
    runtime, rates = detect_runtime(), {"plain": first}
    exact, batches = (
        Runtime(runtime.device, torch.float32),
        resident_batches(spec, load_dataset(spec.data.name), runtime.device),
    )
    _measure(rates, "+ resident data", lambda: teach(spec, batches, exact, torch.contiguous_format)[0])
    _measure(rates, "+ channels_last", lambda: teach(spec, batches, exact, torch.channels_last)[0])
    _measure(rates, f"+ {runtime.name}", lambda: teach(spec, batches, runtime, torch.channels_last)[0])
    speed = (
        pd.Series(rates | {"+ table, kdutils.training": last}, name="images_per_second").rename_axis("rung").to_frame()
    )
    speed["over_previous"] = speed.images_per_second / speed.images_per_second.shift(fill_value=first)
    return speed.assign(over_plain=speed.images_per_second / first).reset_index().to_dict("records")


def benchmark(
    images: int = 4000, epochs: int = 2, students: int = 16, json_file: Path | None = None, stem: str = "cifar_pool"
) -> dict:
    """Measure both arms and the ladder between them, print them, return (and write to `json_file`) every figure.

    Each arm uses the machine in the better of its ways: one process with all threads, or several side by side that
    share them, as the suite does. Of our arm, the median over `students` runs. `images` are more than one batch.

    - `ratio_filled`: our images per second with a filled table over the plain arm's;
    - `ratio_with_filling`: the same with I / (E / f + I / s) in place of our s images per second, where I images and E
      entries are the study's (`study_size`), and f entries per second are filled.
    """
    specs = _copies(student_spec(images, epochs, stem=stem), jobs.workers())
    data, plan = load_dataset(specs[0].data.name), study("assignment", "paper", dataset=specs[0].data.name, init="random")
    print(f"small_cnn taught by resnet18 ({stem}); {data.title}: {images:,} images, {epochs} epochs; images per second")
    rates = _arms(specs, specs, students)
    ladder = _ladder(specs[0], max(_of(rates, "plain, one process").values()), rates["kdutils, one process"])
    result = _ratios(rates, study_size(plan, plan.grid(("resnet18",)))) | {
        "images_per_second": rates,
        "ladder": ladder,
        "setting": {
            "data": data.title,
            "images": images,
            "epochs": epochs,
            "students": students,
            "spec": specs[0].model_dump(mode="json"),
        },
        "environment": environment(detect_runtime()),
    }
    print(f"\nOne process, one thing added at a time:\n{_printed(ladder, 1)}")
    _show(result, result["ratio_filled"])
    return _kept(result, json_file)


def cifar100_spec(images: int, epochs: int) -> RunSpec:
    """Study D's student with its teacher at T = 4 and kd_weight 0.75, in the benchmark's size; on the synthetic data where CIFAR-100 does not lie."""
    plan = study("cifar100", "paper", dataset="cifar100" if is_cached("cifar100") else "synthetic")
    return _sized(plan.taught(KD(temperature=4.0, kd_weight=0.75)), images, epochs)


def benchmark_cifar100(
    images: int = 5120,
    epochs: int = 2,
    plain_images: int = 640,
    students: int = 6,
    runs: int = 8,
    scaling: tuple[int, ...] = (1, 2, 4),
    json_file: Path | None = None,
) -> dict:
    """Measure distilling cnn4 from ResNet32x4 as `benchmark` does, and what workers add; print and return (and write) every figure.

    The plain arm, which is slow, sees `plain_images` once. `runs` students alone are run by each number of workers in `scaling`.

    - `ratio_resnet32x4_cnn4`: our images per second with a filled table over those of the plain loop as it is published, in one
      process with its loaders;
    - `ratio_side_by_side`, `ratio_with_filling`: `ratio_filled` and `ratio_with_filling` of `benchmark`, for study D, where the
      plain loop too may run several times at once;
    - `ratio_two_workers`: images per second of two workers with one thread each over those of one (`scaling_table`).
    """
    spec = cifar100_spec(images, epochs)
    plan, data = study("cifar100", "paper", dataset=spec.data.name), load_dataset(spec.data.name)
    print(
        f"cnn4 taught by resnet32x4; {data.title}: {images:,} images, {epochs} epochs ({plain_images:,} once for the plain loop); images per second"
    )
    rates = _arms(*(_copies(sized, jobs.workers()) for sized in (spec, _sized(spec, plain_images, 1))), students)
    ratios = _ratios(rates, study_size(plan, plan.grid()))
    table = scaling_table(_sized(plan.student(), images, epochs), scaling, runs)
    result = {
        "ratio_resnet32x4_cnn4": max(_of(rates, "kdutils").values()) / max(_of(rates, "plain, one process").values()),
        "ratio_side_by_side": ratios.pop("ratio_filled"),
        "ratio_two_workers": float(table.set_index("workers").loc[2, "over one worker"]),
        **ratios,
        "images_per_second": _of(rates, ("plain", "kdutils")),
        "entries_per_second": _of(rates, "filling"),
        "scaling": table.to_dict("records"),
        "setting": {
            "data": data.title,
            "images": images,
            "epochs": epochs,
            "plain_images": plain_images,
            "students": students,
            "runs": runs,
            "spec": spec.model_dump(mode="json"),
        },
        "environment": environment(detect_runtime()),
    }
    print(f"\n{runs} students alone, by workers with one thread each:\n{_printed(table, 2)}")
    print(f"\nover the plain loop in one process: {result['ratio_resnet32x4_cnn4']:.1f}x")
    _show(result, result["ratio_side_by_side"])
    return _kept(result, json_file)


def benchmark_binary(images: int = 1600, rounds: int = 3, json_file: Path | None = None) -> dict:
    """Measure what an epoch costs in study B's precisions, print it, return (and write to `json_file`) every figure.

    One process with all threads, batch 64, the full-precision twin in turns with the binary networks; medians over
    `rounds`. `wrn_16_7`, whose images cost 13 times as much, sees an eighth of the images. `ratio_xnor` and
    `ratio_bonn`: time per image over the twin's.
    """
    name = "cifar10" if is_cached("cifar10") else "synthetic"
    results = []
    for network, count in (("wrn_22", images), ("wrn_16_7", images // 8)):
        data = DataSpec(name=name, train_size=count, test_size=1)
        plan = study("binary", "overnight", data=data, network=ModelSpec(name=network), epochs=1)
        seconds: dict[str, list[float]] = {precision: [] for precision in ("full", "xnor", "bonn")}
        for _ in range(rounds):
            for precision, measured in seconds.items():
                spec = RunSpec(**dict(plan.wide_resnet(precision)) | {"test_curve": False})
                model = build_model(network, spec.data.num_classes, **spec.model.options)
                measured.append(1 / train(model, spec, load_dataset(data.name), detect_runtime()).images_per_second)
        per_image = {precision: statistics.median(measured) for precision, measured in seconds.items()}
        ratios = {f"ratio_{precision}": per_image[precision] / per_image["full"] for precision in ("xnor", "bonn")}
        results.append(
            {"network": network, "images": count}
            | {f"{precision} (ms/image)": 1000 * value for precision, value in per_image.items()}
            | ratios
        )
    result = {
        "networks": results,
        "rounds": rounds,
        "data": load_dataset(study.data.name).title,
        "environment": environment(detect_runtime()),
        "threads": torch.get_num_threads(),
    }
    print(_printed(results, 2))
    return _kept(result, json_file)


def _of(rates: dict[str, float], arm: str | tuple[str, ...]) -> dict[str, float]:
    return {title: rate for title, rate in rates.items() if title.startswith(arm)}


def _ratios(rates: dict[str, float], study: dict[str, int]) -> dict:
    """Both ratios, with what they were computed from."""
    plain_arm, our_arm, filling = (
        max(_of(rates, arm).items(), key=lambda item: item[1]) for arm in ("plain", "kdutils", "filling")
    )
    effective = study["images"] / (study["entries"] / filling[1] + study["images"] / our_arm[1])
    ratios = {"ratio_filled": our_arm[1] / plain_arm[1], "ratio_with_filling": effective / plain_arm[1]}
    return ratios | {
        "compared": {"plain": plain_arm[0], "kdutils": our_arm[0], "with_filling": effective},
        "study": study,
    }


def _show(result: dict, filled: float) -> None:
    study, compared = result["study"], result["compared"]
    print(f"\n{compared['kdutils']!r} over {compared['plain']!r}: {filled:.1f}x with a filled table,")
    print(
        f"{result['ratio_with_filling']:.1f}x ({compared['with_filling']:,.0f} images/s) with {study['entries']:,} entries filled for {study['students']} students."
    )


def _printed(rows: pd.DataFrame | list[dict], digits: int) -> str:
    return pd.DataFrame(rows).to_string(index=False, float_format=f"{{:,.{digits}f}}".format)


def _kept(result: dict, json_file: Path | None) -> dict:
    """The result, its machine printed, and written to `json_file`."""
    print("; ".join(f"{name} {value}" for name, value in result["environment"].items()))
    if json_file:
        Path(json_file).write_text(json.dumps(result, indent=1) + "\n")
    return result


def scaling_table(
    spec: RunSpec, workers: tuple[int, ...] = (1, 2, 4), runs: int = 4, images: int | None = None
) -> pd.DataFrame:
    """What a worker adds: `runs` copies of `spec` that differ in their seed, really run in so many processes.

    With `images`, each is cut to one epoch of so many training images (or all there are).

    Every worker has one thread, however many cores there are, and is started and warm before its time counts; its records
    go to a temporary store. `spec` needs no other run: the student alone is enough, a taught one only looks its targets up.

    Columns: workers; seconds for all; seconds per run (mean wall time of one beside the others, from spec to record);
    images/s (training images of all runs); over one worker (images/s).
    """
    if spec.needs or not spec.epochs:
        raise InputError(
            f"scaling_table times runs that train and need no other run, {spec.key} is not one: give the student alone"
        )
    if 1 not in workers or min(workers) < 1 or runs < max(workers):
        raise InputError(
            f"workers must be positive, 1 among them, and runs at least as many as the most workers; got {workers} and {runs} runs"
        )
    labels = load_dataset(spec.data.name).train_labels
    spec = _sized(spec, min(images, len(labels)), 1) if images else spec
    shown = runs * spec.epochs * len(split_indices(labels, spec.data)[0])
    rows = []
    with _folder() as folder, _processes(max(workers), 1, spec, folder) as pools:
        for count in workers:
            began = time.perf_counter()
            seconds = _together(pools[:count], _timed_run, _copies(spec, runs), repeat(folder / str(count)))
            rows.append((count, time.perf_counter() - began, statistics.mean(seconds)))
    table = pd.DataFrame(rows, columns=["workers", "seconds for all", "seconds per run"])
    alone = table.set_index("workers").loc[1, "seconds for all"]
    table = table.assign(
        **{"images/s": shown / table["seconds for all"], "over one worker": alone / table["seconds for all"]}
    )
    return table.round({"seconds for all": 3, "seconds per run": 3, "images/s": 0, "over one worker": 3}).astype(
        {"images/s": int}
    )


def inference_table(
    models: dict[str, nn.Module], batches: tuple[int, int] = (1, 256), rounds: int = 10
) -> pd.DataFrame:
    """What networks cost in use, a row for each, and a last row of ratios: the first over the last, teacher over student.

    Columns: network; parameters; MACs of one image, 3 x 32 x 32; bytes of its numbers as float32 (`kdutils.packing.accounting`);
    and, measured on this machine, medians over `rounds`: milliseconds for a batch of the first size, images/s in batches of
    the second. Evaluation mode and channels_last, in the suite's number format, the weights brought into it once.
    """
    if len(models) < 2 or rounds < 1 or min(batches) < 1:
        raise InputError(
            "inference_table compares networks, the teacher first and the student last: give two or more, and batches and rounds of at least 1"
        )
    rows = []
    for name, model in models.items():
        counts = accounting(model)[["parameters", "MACs", "float bytes"]].sum().to_list()
        latency, seconds = (_forward_seconds(model, batch, rounds) for batch in batches)
        rows.append((name, *counts, 1000 * latency, batches[1] / seconds))
    titles = [
        "network",
        "parameters",
        "MACs per image",
        "float32 (bytes)",
        f"ms at batch {batches[0]}",
        f"images/s at batch {batches[1]}",
    ]
    ratios = [f"{first / last:.3g}" for first, last in zip(rows[0][1:], rows[-1][1:])]
    shown = [
        [name, *(f"{count:,}" for count in counts), f"{latency:,.2f}", f"{rate:,.0f}"]
        for name, *counts, latency, rate in rows
    ]
    return pd.DataFrame([*shown, [f"{rows[0][0]} over {rows[-1][0]}", *ratios]], columns=titles)


@torch.inference_mode()
def _forward_seconds(model: nn.Module, batch: int, rounds: int) -> float:
    """Median seconds of a forward pass of a copy of `model`, after a first one that is not counted."""
    runtime, seconds = detect_runtime(), []
    model = copy.deepcopy(model).to(runtime.device, memory_format=torch.channels_last).eval()
    images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(
        runtime.device, memory_format=torch.channels_last
    )
    with runtime.autocast():  # one context: it keeps the weights that it has cast
        for _ in range(rounds + 1):
            began = time.perf_counter()
            model(images)
            if runtime.device.type != "cpu":
                getattr(torch, runtime.device.type).synchronize()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def fill_rate(teacher: Record, entries: int = 512) -> float:
    """Entries per second at which a worker fills the teacher's table: measured here in a temporary folder, after a first
    batch, with as many threads as its run had."""
    spec, model, dataset, threads = (
        teacher.spec,
        teacher.load_model(),
        load_dataset(teacher.spec.data.name),
        torch.get_num_threads(),
    )
    first, counted = np.split(np.arange(FILL_BATCH + entries), [FILL_BATCH])
    torch.set_num_threads(int(teacher.summary["environment"]["threads"]))
    try:
        with _folder() as folder:
            table = _table(spec, dataset, folder)
            _fill(model, spec, dataset, table, first)
            return _fill(model, spec, dataset, table, counted)
    finally:
        torch.set_num_threads(threads)


def grid_needs(
    student: Record, teacher: Record, fill_rate: float, runs: int = 10_000, workers: int = 100
) -> pd.DataFrame:
    """What a grid of `runs` such as `student`, taught from one table of `teacher`, needs of `workers`: quantity, value.

    Every worker is as fast as the one that recorded these two runs, and as `fill_rate` (entries per second): nothing is
    said of other hardware, nor of start-up and evaluation. The runs may differ in all that leaves epochs and views the same
    (temperature, weight, seed): they share the entries of one (`kdutils.data.epoch_stream`). First the teacher trains,
    then all workers fill, then they run.
    """
    if min(fill_rate, runs, workers) <= 0:
        raise InputError(
            f"grid_needs takes a positive fill_rate, runs and workers, got {fill_rate}, {runs} and {workers}"
        )
    spec, dataset = student.spec, load_dataset(student.spec.data.name)
    measured = {
        f"{facts['hardware']}, threads used {facts['threads']}"
        for facts in (record.summary["environment"] for record in (student, teacher))
    }
    one, training, entries = student.summary["seconds"], teacher.summary["seconds"], len(training_codes(spec, dataset))
    filling, wall = entries / fill_rate, training + entries / fill_rate / workers + math.ceil(runs / workers) * one
    table = len(split_indices(dataset.train_labels, spec.data)[0]) * spec.data.views * spec.data.num_classes * 2
    read = table + sum(
        array.nbytes for array in (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    )
    files = [path.stat().st_size for path in student.path.iterdir()]
    values = {
        "every worker as fast as the worker measured here": "; ".join(sorted(measured)),
        "worker-hours in all": f"{(training + filling + runs * one) / 3600:,.2f}",
        f"hours of wall clock with {workers:,} workers": f"{wall / 3600:,.2f}",
        "bytes of a record": f"{sum(files):,}",
        f"bytes of {runs:,} records": f"{runs * sum(files):,}",
        "files in the store": f"{runs * len(files) + len(list(teacher.path.iterdir())) + 2:,}",  # a table has two
        "bytes of the teacher's full table": f"{table:,}",
        "entries to fill": f"{entries:,}",
        "worker-hours to fill them": f"{filling / 3600:,.2f}",
        "bytes that every worker reads, table and data set": f"{read:,}",
        "MB/s of network if all read them within one epoch": f"{workers * read * spec.epochs / one / 1e6:,.1f}",
        "runs that the scheduler ends per second": f"{runs / wall:,.3g}",
    }
    return pd.DataFrame(values.items(), columns=["quantity", "value"])
