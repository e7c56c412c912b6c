"""How fast the suite distils, beside the plain loop of the PyTorch tutorials: same networks, images, views, epochs;
and what training a binary network costs beside its full-precision twin.

The task of the first is study A's: `small_cnn` learns from ResNet18 with the study's stem, `cifar_pool` (the cheaper `imagenet`
stem is a parameter), at batch 32 with Adam, T = 4, weight 0.7 and 162 views. Random weights: they do not change speed.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kdutils.baseline import loaded_batches, network, resident_batches, teach
from kdutils.data import Dataset, is_cached, load_dataset
from kdutils.jobs import workers
from kdutils.models import build_model
from kdutils.records import environment
from kdutils.runtime import Runtime, cores, detect_runtime
from kdutils.specs import DataSpec, Distillation, ModelSpec, RunSpec
from kdutils.studies import assignment, binarised
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
    dataset, teacher = load_dataset(spec.data.name), network(spec.teachers[0])
    table, began = _table(spec, dataset, folder), time.perf_counter()
    return table.fill(teacher, dataset, codes, spec.data.normalisation, detect_runtime()) / (time.perf_counter() - began)


def _table(spec: RunSpec, dataset: Dataset, folder: Path) -> ViewTable:
    return ViewTable(folder, len(dataset.train_labels), spec.data.num_classes)


def student_spec(images: int, epochs: int, seed: int = 0, stem: str = "cifar_pool") -> RunSpec:
    """The study's student in the benchmark's size, on CIFAR-10 where it lies, else on the synthetic data."""
    data = DataSpec(name="cifar10" if is_cached("cifar10") else "synthetic", train_size=images, test_size=250)
    plan = replace(assignment("paper", data.name, init="random"), data=data, epochs=epochs)
    taught = Distillation(teachers=(plan.resnet("resnet18", stem=stem),), temperature=4.0, kd_weight=0.7)
    return RunSpec(**dict(plan.small_cnn(seed)) | {"distillation": taught})


def study_size(dataset: str) -> dict[str, int]:
    """How many `images` the `students` of one table see in study A's paper profile, and how many `entries` they need.

    Counted are the grid and the best cell's further seeds, not the students with a second teacher. All see the same
    views (`kdutils.data.epoch_stream`), so one student's entries are everybody's.
    """
    study = assignment("paper", dataset, init="random")
    grid = study.grid(("resnet18",))
    students = len(grid) + len(study.seeds) - 1
    entries = len(training_codes(grid[0], load_dataset(dataset)))
    return {"students": students, "images": students * study.epochs * study.data.train_size, "entries": entries}


def _measure(rates: dict[str, float], title: str, rate: Callable[[], float], times: int = 1) -> None:
    """Add the median of `times` measurements to `rates`, and print it."""
    rates[title] = statistics.median(rate() for _ in range(times))
    print(f"{title:<40s}{rates[title]:12,.0f} /s", flush=True)


def _arms(specs: list[RunSpec], pools: list[ProcessPoolExecutor], rounds: int, folder: Path) -> dict[str, float]:
    """Both arms in each of their ways to use the machine: images per second (of the filling, entries)."""

    def together(function: Callable[..., float], *arguments: Iterable) -> float:
        futures = [pool.submit(function, *own) for pool, *own in zip(pools, *arguments)]
        return sum(future.result() for future in futures)

    rates, folders, many = {}, [folder] * len(specs), f"{len(specs)} side by side"
    for loaders in (0, cores()):
        _measure(rates, f"plain, one process, {loaders} loaders", lambda: plain(specs[0], loaders))
    _measure(rates, f"plain, {many}", lambda: together(plain, specs))
    shards = np.array_split(training_codes(specs[0], load_dataset(specs[0].data.name)), len(specs))
    _measure(rates, f"filling, {many}", lambda: together(fill, specs, folders, shards))
    _measure(rates, "kdutils, one process", lambda: distil(specs[0], folder), rounds)
    _measure(rates, f"kdutils, {many}", lambda: together(distil, specs, folders), rounds)
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
    count, specs = workers(), [student_spec(images, epochs, seed, stem) for seed in range(workers())]
    data = load_dataset(specs[0].data.name)
    print(f"small_cnn taught by resnet18 ({stem}); {data.title}: {images:,} images, {epochs} epochs; images per second")
    with tempfile.TemporaryDirectory(prefix="kdutils-") as folder, ExitStack() as stack:
        context, share = get_context("spawn"), max(1, cores() // count)
        pools = [stack.enter_context(ProcessPoolExecutor(1, context, torch.set_num_threads, (share,))) for _ in specs]
        for started in [pool.submit(load_dataset, data.name) for pool in pools]:
            started.result()
        rates = _arms(specs, pools, max(1, students // count), Path(folder))
    ladder = _ladder(specs[0], max(_of(rates, "plain, one process").values()), rates["kdutils, one process"])
    result = _ratios(rates, study_size(data.name)) | {
        "images_per_second": rates,
        "ladder": ladder,
        "setting": {"data": data.title, "images": images, "epochs": epochs, "students": students, "spec": specs[0].model_dump(mode="json")},
        "environment": environment(detect_runtime()),
    }
    _show(result)
    if json_file:
        Path(json_file).write_text(json.dumps(result, indent=1) + "\n")
    return result


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
    print(pd.DataFrame(results).to_string(index=False, float_format="{:,.2f}".format))
    print("; ".join(f"{name} {value}" for name, value in result["environment"].items()))
    if json_file:
        Path(json_file).write_text(json.dumps(result, indent=1) + "\n")
    return result


def _of(rates: dict[str, float], arm: str) -> dict[str, float]:
    return {title: rate for title, rate in rates.items() if title.startswith(arm)}


def _ratios(rates: dict[str, float], study: dict[str, int]) -> dict:
    """Both ratios, with what they were computed from."""
    plain_arm, our_arm, filling = (max(_of(rates, arm).items(), key=lambda item: item[1]) for arm in ("plain", "kdutils", "filling"))
    effective = study["images"] / (study["entries"] / filling[1] + study["images"] / our_arm[1])
    ratios = {"ratio_filled": our_arm[1] / plain_arm[1], "ratio_with_filling": effective / plain_arm[1]}
    return ratios | {"compared": {"plain": plain_arm[0], "kdutils": our_arm[0], "with_filling": effective}, "study": study}


def _show(result: dict) -> None:
    study, compared = result["study"], result["compared"]
    print(f"\nOne process, one thing added at a time:\n{pd.DataFrame(result['ladder']).to_string(index=False, float_format='{:,.1f}'.format)}")
    print(f"\n{compared['kdutils']!r} over {compared['plain']!r}: {result['ratio_filled']:.1f}x with a filled table,")
    print(f"{result['ratio_with_filling']:.1f}x ({compared['with_filling']:,.0f} images/s) with {study['entries']:,} entries filled for {study['students']} students.")
    print("; ".join(f"{name} {value}" for name, value in result["environment"].items()))
