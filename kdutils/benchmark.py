"""How fast the suite distils, beside the plain loop of the PyTorch tutorials: same networks, images, views, batches;
what training a binary network costs beside its full-precision twin; and what a chapter tells of cost:
`scaling_table`.

`benchmark` has study A's task: `small_cnn` learns from ResNet18 with the study's stem, `cifar_pool` (the cheaper `imagenet`
stem is a parameter), at batch 32 with Adam, T = 4, weight 0.7 and 162 views; `benchmark_cifar100` study D's: `cnn4` learns
from ResNet32x4 at batch 128 with SGD, T = 4, weight 0.75 and 162 views. Random weights: they do not change speed.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import cycle, repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from kdutils import jobs
from kdutils.baseline import loaded_batches, network, resident_batches, teach, teacher_network
from kdutils.data import Dataset, is_cached, load_dataset, split_indices
from kdutils.models import build_model
from kdutils.records import environment
from kdutils.runs import run
from kdutils.runtime import Runtime, cores, detect_runtime
from kdutils.specs import DataSpec, Distillation, InputError, ModelSpec, RunSpec
from kdutils.studies import assignment, binarised, cifar100
from kdutils.studies.base import Study
from kdutils.teachers import ViewTable, training_codes
from kdutils.training import train


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
    return table.fill(teacher, dataset, codes, spec.data.normalisation, detect_runtime()) / (time.perf_counter() - began)


def _table(spec: RunSpec, dataset: Dataset, folder: Path) -> ViewTable:
    return ViewTable(folder, len(dataset.train_labels), spec.data.num_classes)


def student_spec(images: int, epochs: int, seed: int = 0, stem: str = "cifar_pool") -> RunSpec:
    """The study's student in the benchmark's size, on CIFAR-10 where it lies, else on the synthetic data."""
    data = DataSpec(name="cifar10" if is_cached("cifar10") else "synthetic", train_size=images, test_size=250)
    plan = replace(assignment("paper", data.name, init="random"), data=data, epochs=epochs)
    taught = Distillation(teachers=(plan.resnet("resnet18", stem=stem),), temperature=4.0, kd_weight=0.7)
    return RunSpec(**dict(plan.small_cnn(seed)) | {"distillation": taught})


def study_size(study: Study, grid: list[RunSpec]) -> dict[str, int]:
    """How many `images` the `students` of one table see in a study, and how many `entries` they need.

    Counted are the grid's taught students and its best cell's further seeds. All see the same views
    (`kdutils.data.epoch_stream`), so one student's entries are everybody's.
    """
    dataset, taught = load_dataset(study.data.name), [spec for spec in grid if spec.teachers]
    students, shown = len(taught) + len(study.seeds) - 1, len(split_indices(dataset.train_labels, study.data)[0])
    return {"students": students, "images": students * study.epochs * shown, "entries": len(training_codes(taught[0], dataset))}


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
    alone, context = _sized(RunSpec(**dict(spec) | {"distillation": None}), spec.batch_size, 1), get_context("forkserver")
    context.set_forkserver_preload(["kdutils.benchmark"])  # PyTorch is imported once, not once for each
    settings = {name: value for name, value in os.environ.items() if name.startswith("KD_")}  # the fork server has older ones
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, context, _begin, (threads, settings))) for _ in range(count)]
        _together(pools, _timed_run, _copies(alone, count), repeat(folder / "warm"))
        yield pools


def _begin(threads: int, settings: dict[str, str]) -> None:
    os.environ.update(settings)
    os.environ.pop("KD_USED_RUNS", None)  # what is run for its time is no result of the chapter that asks
    torch.set_num_threads(threads)


def _together(pools: Iterable[ProcessPoolExecutor], function: Callable[..., float], *arguments: Iterable) -> list[float]:
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
    exact, batches = Runtime(runtime.device, torch.float32), resident_batches(spec, load_dataset(spec.data.name), runtime.device)
    _measure(rates, "+ resident data", lambda: teach(spec, batches, exact, torch.contiguous_format)[0])
    _measure(rates, "+ channels_last", lambda: teach(spec, batches, exact, torch.channels_last)[0])
    _measure(rates, f"+ {runtime.name}", lambda: teach(spec, batches, runtime, torch.channels_last)[0])
    speed = pd.Series(rates | {"+ table, kdutils.training": last}, name="images_per_second").rename_axis("rung").to_frame()
    speed["over_previous"] = speed.images_per_second / speed.images_per_second.shift(fill_value=first)
    return speed.assign(over_plain=speed.images_per_second / first).reset_index().to_dict("records")


def benchmark(images: int = 4000, epochs: int = 2, students: int = 16, json_file: Path | None = None, stem: str = "cifar_pool") -> dict:
    """Measure both arms and the ladder between them, print them, return (and write to `json_file`) every figure.

    Each arm uses the machine in the better of its ways: one process with all threads, or several side by side that
    share them, as the suite does. Of our arm, the median over `students` runs. `images` are more than one batch.

    - `ratio_filled`: our images per second with a filled table over the plain arm's;
    - `ratio_with_filling`: the same with I / (E / f + I / s) in place of our s images per second, where I images and E
      entries are the study's (`study_size`), and f entries per second are filled.
    """
    specs = _copies(student_spec(images, epochs, stem=stem), jobs.workers())
    data, study = load_dataset(specs[0].data.name), assignment("paper", specs[0].data.name, init="random")
    print(f"small_cnn taught by resnet18 ({stem}); {data.title}: {images:,} images, {epochs} epochs; images per second")
    rates = _arms(specs, specs, students)
    ladder = _ladder(specs[0], max(_of(rates, "plain, one process").values()), rates["kdutils, one process"])
    result = _ratios(rates, study_size(study, study.grid(("resnet18",)))) | {
        "images_per_second": rates,
        "ladder": ladder,
        "setting": {"data": data.title, "images": images, "epochs": epochs, "students": students, "spec": specs[0].model_dump(mode="json")},
        "environment": environment(detect_runtime()),
    }
    print(f"\nOne process, one thing added at a time:\n{_printed(ladder, 1)}")
    _show(result, result["ratio_filled"])
    return _kept(result, json_file)


def cifar100_spec(images: int, epochs: int) -> RunSpec:
    """Study D's student with its teacher at T = 4 and kd_weight 0.75, in the benchmark's size; on the synthetic data where CIFAR-100 does not lie."""
    return _sized(cifar100("paper", "cifar100" if is_cached("cifar100") else "synthetic").taught(4.0, 0.75), images, epochs)


def benchmark_cifar100(
    images: int = 5120, epochs: int = 2, plain_images: int = 640, students: int = 6, runs: int = 8, scaling: tuple[int, ...] = (1, 2, 4), json_file: Path | None = None
) -> dict:
    """Measure distilling cnn4 from ResNet32x4 as `benchmark` does, and what workers add; print and return (and write) every figure.

    The plain arm, which is slow, sees `plain_images` once. `runs` students alone are run by each number of workers in `scaling`.

    - `ratio_resnet32x4_cnn4`, `ratio_with_filling`: `ratio_filled` and `ratio_with_filling` of `benchmark`, for study D;
    - `ratio_two_workers`: images per second of two workers with one thread each over those of one (`scaling_table`).
    """
    spec = cifar100_spec(images, epochs)
    study, data = cifar100("paper", spec.data.name), load_dataset(spec.data.name)
    print(f"cnn4 taught by resnet32x4; {data.title}: {images:,} images, {epochs} epochs ({plain_images:,} once for the plain loop); images per second")
    rates = _arms(*(_copies(sized, jobs.workers()) for sized in (spec, _sized(spec, plain_images, 1))), students)
    ratios = _ratios(rates, study_size(study, study.grid()))
    table = scaling_table(_sized(study.student(), images, epochs), scaling, runs)
    result = {
        "ratio_resnet32x4_cnn4": ratios.pop("ratio_filled"),
        "ratio_two_workers": float(table.set_index("workers").loc[2, "over one worker"]),
        **ratios,
        "images_per_second": _of(rates, ("plain", "kdutils")),
        "entries_per_second": _of(rates, "filling"),
        "scaling": table.to_dict("records"),
        "setting": {"data": data.title, "images": images, "epochs": epochs, "plain_images": plain_images, "students": students, "runs": runs, "spec": spec.model_dump(mode="json")},
        "environment": environment(detect_runtime()),
    }
    print(f"\n{runs} students alone, by workers with one thread each:\n{_printed(table, 2)}")
    _show(result, result["ratio_resnet32x4_cnn4"])
    return _kept(result, json_file)


def benchmark_binary(images: int = 1600, rounds: int = 3, json_file: Path | None = None) -> dict:
    """Measure what an epoch costs in study B's precisions, print it, return (and write to `json_file`) every figure.

    One process with all threads, batch 64, the full-precision twin in turns with the binary networks; medians over
    `rounds`. `wrn_16_7`, whose images cost 13 times as much, sees an eighth of the images. `ratio_xnor` and
    `ratio_bonn`: time per image over the twin's.
    """
    study = binarised("overnight", "cifar10" if is_cached("cifar10") else "synthetic", init="random")
    results = []
    for network, count in (("wrn_22", images), ("wrn_16_7", images // 8)):
        data = DataSpec(**dict(study.data) | {"train_size": count, "test_size": 1})
        plan = replace(study, data=data, network=ModelSpec(name=network), epochs=1)
        seconds: dict[str, list[float]] = {precision: [] for precision in ("full", "xnor", "bonn")}
        for _ in range(rounds):
            for precision, measured in seconds.items():
                spec = RunSpec(**dict(plan.wide_resnet(precision)) | {"test_curve": False})
                model = build_model(network, spec.data.num_classes, **spec.model.options)
                measured.append(1 / train(model, spec, load_dataset(data.name), detect_runtime()).images_per_second)
        per_image = {precision: statistics.median(measured) for precision, measured in seconds.items()}
        ratios = {f"ratio_{precision}": per_image[precision] / per_image["full"] for precision in ("xnor", "bonn")}
        results.append({"network": network, "images": count} | {f"{precision} (ms/image)": 1000 * value for precision, value in per_image.items()} | ratios)
    result = {"networks": results, "rounds": rounds, "data": load_dataset(study.data.name).title, "environment": environment(detect_runtime()), "threads": torch.get_num_threads()}
    print(_printed(results, 2))
    return _kept(result, json_file)


def _of(rates: dict[str, float], arm: str | tuple[str, ...]) -> dict[str, float]:
    return {title: rate for title, rate in rates.items() if title.startswith(arm)}


def _ratios(rates: dict[str, float], study: dict[str, int]) -> dict:
    """Both ratios, with what they were computed from."""
    plain_arm, our_arm, filling = (max(_of(rates, arm).items(), key=lambda item: item[1]) for arm in ("plain", "kdutils", "filling"))
    effective = study["images"] / (study["entries"] / filling[1] + study["images"] / our_arm[1])
    ratios = {"ratio_filled": our_arm[1] / plain_arm[1], "ratio_with_filling": effective / plain_arm[1]}
    return ratios | {"compared": {"plain": plain_arm[0], "kdutils": our_arm[0], "with_filling": effective}, "study": study}


def _show(result: dict, filled: float) -> None:
    study, compared = result["study"], result["compared"]
    print(f"\n{compared['kdutils']!r} over {compared['plain']!r}: {filled:.1f}x with a filled table,")
    print(f"{result['ratio_with_filling']:.1f}x ({compared['with_filling']:,.0f} images/s) with {study['entries']:,} entries filled for {study['students']} students.")


def _printed(rows: pd.DataFrame | list[dict], digits: int) -> str:
    return pd.DataFrame(rows).to_string(index=False, float_format=f"{{:,.{digits}f}}".format)


def _kept(result: dict, json_file: Path | None) -> dict:
    """The result, its machine printed, and written to `json_file`."""
    print("; ".join(f"{name} {value}" for name, value in result["environment"].items()))
    if json_file:
        Path(json_file).write_text(json.dumps(result, indent=1) + "\n")
    return result


def scaling_table(spec: RunSpec, workers: tuple[int, ...] = (1, 2, 4), runs: int = 4) -> pd.DataFrame:
    """What a worker adds: `runs` copies of `spec` that differ in their seed, really run in so many processes.

    Every worker has one thread, however many cores there are, and is started and warm before its time counts; its records
    go to a temporary store. `spec` needs no other run: the student alone is enough, a taught one only looks its targets up.

    Columns: workers; seconds for all; seconds per run (mean wall time of one beside the others, from spec to record);
    images/s (training images of all runs); over one worker (images/s).
    """
    if spec.needs or not spec.epochs:
        raise InputError(f"scaling_table times runs that train and need no other run, {spec.key} is not one: give the student alone")
    if 1 not in workers or min(workers) < 1 or runs < max(workers):
        raise InputError(f"workers must be positive, 1 among them, and runs at least as many as the most workers; got {workers} and {runs} runs")
    images = runs * spec.epochs * len(split_indices(load_dataset(spec.data.name).train_labels, spec.data)[0])
    rows = []
    with _folder() as folder, _processes(max(workers), 1, spec, folder) as pools:
        for count in workers:
            began = time.perf_counter()
            seconds = _together(pools[:count], _timed_run, _copies(spec, runs), repeat(folder / str(count)))
            rows.append((count, time.perf_counter() - began, statistics.mean(seconds)))
    table = pd.DataFrame(rows, columns=["workers", "seconds for all", "seconds per run"])
    alone = table.set_index("workers").loc[1, "seconds for all"]
    table = table.assign(**{"images/s": images / table["seconds for all"], "over one worker": alone / table["seconds for all"]})
    return table.round({"seconds for all": 3, "seconds per run": 3, "images/s": 0, "over one worker": 3}).astype({"images/s": int})
