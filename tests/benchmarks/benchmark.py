"""How fast the suite distils, beside the plain loop of the PyTorch tutorials: same networks, images, views, batches;
and what training a binary network costs beside its full-precision twin.

`benchmark` has study A's task: `small_cnn` learns from ResNet18 with the study's stem, `cifar_pool` (the cheaper
`imagenet` stem is a parameter), at batch 32 with Adam, T = 4, weight 0.7 and 162 views; `benchmark_cifar100` D's:
`cnn4` learns from ResNet32x4 at batch 128 with SGD, T = 4, weight 0.75 and 162 views. Weights are random: they do not
change speed.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle, repeat
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from kdutils.data.datasets import Dataset, available, load_dataset
from kdutils.data.views import split_indices
from kdutils.distillation.methods import KD
from kdutils.distillation.tables import ViewTable
from kdutils.machine import Runtime, cores, detect_runtime
from kdutils.runs.records import environment
from kdutils.settings import settings
from kdutils.specs import Distillation, ModelSpec, RunSpec
from kdutils.studies import study
from kdutils.training.inputs import Inputs, looked_up
from kdutils.training.loop import train

from .baseline import loaded_batches, network, resident_batches, teach, teacher_network
from .scaling import scaling_table


def plain(spec: RunSpec, loaders: int = 0) -> float:
    """Images per second of the plain arm: PIL, DataLoader, float32, the teacher's forward pass in every step."""
    batches = loaded_batches(spec, load_dataset(spec.data.name), loaders)
    return teach(spec, batches, Runtime(detect_runtime().device, torch.float32), torch.contiguous_format)[0]


def distil(spec: RunSpec, folder: Path | None) -> float:
    """Images per second of `kdutils.training.loop.train`, with the filled table in `folder` if there is one."""
    dataset = load_dataset(spec.data.name)
    tables = (_table(spec, dataset, folder),) if folder else ()
    return train(network(spec), spec, inputs(spec, dataset, detect_runtime(), tables)).images_per_second


def inputs(spec: RunSpec, dataset: Dataset, runtime: Runtime, tables: tuple[ViewTable, ...] = ()) -> Inputs:
    """What the run rests on, as `kdutils.runs.run` looks it up."""
    return Inputs(dataset, runtime, *split_indices(dataset.train_labels, *spec.data.split), tables)


def entry_codes(spec: RunSpec, dataset: Dataset) -> np.ndarray:
    """The entries of the teacher's table that the run looks up, int64."""
    return looked_up(spec, split_indices(dataset.train_labels, *spec.data.split)[0])


def fill(spec: RunSpec, folder: Path, codes: np.ndarray) -> float:
    """Entries per second at which the table in `folder` is filled at `codes` (image * 162 + view), int64 [N]."""
    dataset, teacher = load_dataset(spec.data.name), teacher_network(spec)
    table, began = _table(spec, dataset, folder), time.perf_counter()
    filled = table.fill(teacher, dataset, codes, spec.data.normalisation, detect_runtime())
    return filled / (time.perf_counter() - began)


def _table(spec: RunSpec, dataset: Dataset, folder: Path) -> ViewTable:
    return ViewTable(folder, len(dataset.train_labels), spec.data.num_classes)


def _here(name: str) -> str:
    """The data set `name` where it can be had, else the synthetic one."""
    return name if available(name) else "synthetic"


def student_spec(images: int, epochs: int, seed: int = 0, stem: str = "cifar_pool") -> RunSpec:
    """The study's student in the benchmark's size, on CIFAR-10 where it can be had, else on the synthetic data."""
    plan = study("assignment", "paper", dataset=_here("cifar10"), init="random")
    plan = plan.with_(data=plan.data.with_(train_size=images, val_size=0, test_size=250))
    plan, method = plan.with_(cnn=plan.cnn.with_(epochs=epochs)), KD(temperature=4.0, kd_weight=0.7)
    teacher = plan.resnet("resnet18")
    teacher = teacher.with_(model=ModelSpec(name="resnet18", options={"stem": stem}))
    return plan.small_cnn(seed).with_(distillation=Distillation(teachers=(teacher,), method=method))


def study_size(grid: list[RunSpec], seeds: int) -> dict[str, int]:
    """How many `images` the `students` of one table see in a study, and how many `entries` they need.

    Counted are the grid's taught students and its best cell's further seeds. All see the same views
    (`kdutils.data.views.epoch_stream`), so one student's entries are everybody's.
    """
    taught = [spec for spec in grid if spec.teachers]
    dataset, students = load_dataset(taught[0].data.name), len(taught) + seeds - 1
    shown = len(split_indices(dataset.train_labels, *taught[0].data.split)[0])
    entries = len(entry_codes(taught[0], dataset))
    return {"students": students, "images": students * taught[0].epochs * shown, "entries": entries}


def _sized(spec: RunSpec, images: int, epochs: int) -> RunSpec:
    """`spec` on so many training images for so many epochs, its schedule and its teachers as they are."""
    return spec.with_(data=spec.data.with_(train_size=images, val_size=0, test_size=250), epochs=epochs)


def _copies(spec: RunSpec, count: int) -> list[RunSpec]:
    return [spec.with_(seed=spec.seed + number) for number in range(count)]


def _workers() -> int:
    return settings().workers or cores()


@contextmanager
def _processes(count: int, threads: int, spec: RunSpec) -> Iterator[list[ProcessPoolExecutor]]:
    """So many processes of so many threads, each warm from one batch of `spec`'s student alone."""
    alone = _sized(spec.with_(distillation=None), spec.batch_size, 1)
    with ExitStack() as stack:
        pools = [ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,)) for _ in range(count)]
        for pool in pools:
            stack.enter_context(pool)
        _together(pools, distil, repeat(alone, count), repeat(None))
        yield pools


def _together(
    pools: Iterable[ProcessPoolExecutor], function: Callable[..., float], *arguments: Iterable
) -> list[float]:
    """What `function` returns for each row of the arguments, in these processes by turns."""
    rows = zip(*arguments, strict=False)
    futures = [pool.submit(function, *row) for row, pool in zip(rows, cycle(pools), strict=False)]
    return [future.result() for future in futures]


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
    with TemporaryDirectory() as name, _processes(count, max(1, cores() // count), specs[0]) as pools:
        folder = Path(name)
        for loaders in (0, cores()):
            _measure(rates, f"plain, one process, {loaders} loaders", partial(plain, plain_specs[0], loaders))
        _measure(rates, f"plain, {many}", lambda: sum(_together(pools, plain, plain_specs)))
        shards = np.array_split(entry_codes(specs[0], load_dataset(specs[0].data.name)), count)
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
    specs = _copies(student_spec(images, epochs, stem=stem), _workers())
    data = load_dataset(specs[0].data.name)
    plan = study("assignment", "paper", dataset=data.name, init="random")
    print(f"small_cnn taught by resnet18 ({stem}); {data.title}: {images:,} images, {epochs} epochs; images per second")
    rates = _arms(specs, specs, students)
    ladder = _ladder(specs[0], max(_of(rates, "plain, one process").values()), rates["kdutils, one process"])
    result = _ratios(rates, study_size(plan.grid(("resnet18",)), len(plan.seeds))) | {
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
    """Study D's student, taught at T = 4 and kd_weight 0.75, in the benchmark's size."""
    plan = study("cifar100", "paper", dataset=_here("cifar100"))
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
    """Measure distilling cnn4 from ResNet32x4 as `benchmark` does, and what workers add; print and return every figure.

    The plain arm, which is slow, sees `plain_images` once. `runs` students alone are run by each number of workers in
    `scaling`. Written to `json_file` too.

    - `ratio_resnet32x4_cnn4`: our images per second with a filled table over those of the plain loop as it is
      published, in one process with its loaders;
    - `ratio_side_by_side`, `ratio_with_filling`: `ratio_filled` and `ratio_with_filling` of `benchmark`, for study D,
      where the plain loop too may run several times at once;
    - `ratio_two_workers`: images/s of two workers with one thread each over those of one (`scaling_table`).
    """
    spec = cifar100_spec(images, epochs)
    plan, data = study("cifar100", "paper", dataset=spec.data.name), load_dataset(spec.data.name)
    print(f"cnn4 taught by resnet32x4; {data.title}: {images:,} images, {epochs} epochs ({plain_images:,} once for the")
    print("plain loop); images per second")
    rates = _arms(*(_copies(sized, _workers()) for sized in (spec, _sized(spec, plain_images, 1))), students)
    ratios = _ratios(rates, study_size(plan.grid(), len(plan.seeds)))
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
    plan = study("binary", "overnight", dataset=_here("cifar10"), init="random")
    results = []
    for name, count in (("wrn_22", images), ("wrn_16_7", images // 8)):
        data = plan.data.with_(train_size=count, test_size=1)
        sized = plan.with_(data=data, network=ModelSpec(name=name), wide=plan.wide.with_(epochs=1, batch_size=64))
        seconds: dict[str, list[float]] = {precision: [] for precision in ("full", "xnor", "bonn")}
        for _ in range(rounds):
            for precision, measured in seconds.items():
                measured.append(1 / distil(sized.wide_resnet(precision).with_(test_curve=False), None))
        per_image = {precision: statistics.median(measured) for precision, measured in seconds.items()}
        ratios = {f"ratio_{precision}": per_image[precision] / per_image["full"] for precision in ("xnor", "bonn")}
        results.append(
            {"network": name, "images": count}
            | {f"{precision} (ms/image)": 1000 * value for precision, value in per_image.items()}
            | ratios
        )
    result = {
        "networks": results,
        "rounds": rounds,
        "data": load_dataset(plan.data.name).title,
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
    size, compared = result["study"], result["compared"]
    print(f"\n{compared['kdutils']!r} over {compared['plain']!r}: {filled:.1f}x with a filled table,")
    print(f"{result['ratio_with_filling']:.1f}x ({compared['with_filling']:,.0f} images/s) with", end=" ")
    print(f"{size['entries']:,} entries filled for {size['students']} students.")


def _printed(rows: pd.DataFrame | list[dict], digits: int) -> str:
    return pd.DataFrame(rows).to_string(index=False, float_format=f"{{:,.{digits}f}}".format)


def _kept(result: dict, json_file: Path | None) -> dict:
    """The result, its machine printed, and written to `json_file`."""
    print("; ".join(f"{name} {value}" for name, value in result["environment"].items()))
    if json_file:
        Path(json_file).write_text(json.dumps(result, indent=1) + "\n")
    return result
