"""What capturing a training step saves on a GPU, beside launching its kernels one by one."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

import kdutils.training.step as step
from kdutils.errors import InputError
from kdutils.machine import detect_runtime
from kdutils.runs.records import environment
from kdutils.specs import RunSpec
from kdutils.studies import study
from kdutils.training.optimisers import make_optimiser

from .baseline import network
from .benchmark import _kept, _printed


def benchmark_captured(rounds: int = 10, steps: int = 50, json_file: Path | None = None) -> dict:
    """Measure a step of the studies' networks both ways, print it, return (and write to `json_file`) all figures.

    One process, on random pixels and teacher logits; the two ways take turns, `ratio` is the median over `rounds` of
    eager over captured in the same round. Raises `InputError` where there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise InputError("steps are captured on CUDA alone, and there is no such device here: run this on a GPU")
    binary, cifar100 = study("binary", "overnight"), study("cifar100", "overnight")
    specs = {
        "four-layer CNN": cifar100.student(),
        "four-layer CNN, distilled": cifar100.taught(cifar100.cells[0]),
        "reduced CNN": binary.reduced_cnn(),
        "WRN-22, full precision": binary.wide_resnet("full"),
        "WRN-22, BONN": binary.wide_resnet("bonn"),
        "ResNet18": cifar100.teacher(),
    }
    rows = []
    for name, spec in specs.items():
        ways = {"eager": _trainer(spec, eager=True), "captured": _trainer(spec, eager=False)}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, train in ways.items():
                began = time.perf_counter()
                for _ in range(steps):
                    train()
                torch.cuda.synchronize()
                seconds[way].append((time.perf_counter() - began) / steps)
        shown = {f"{way} (ms)": 1000 * statistics.median(taken) for way, taken in seconds.items()}
        ratios = [eager / captured for eager, captured in zip(seconds["eager"], seconds["captured"], strict=True)]
        rows.append({"network": name, "batch": spec.batch_size} | shown | {"ratio": statistics.median(ratios)})
    print(_printed(rows, 2))
    result = {"networks": rows, "rounds": rounds, "steps": steps}
    return _kept(result | {"environment": environment(detect_runtime())}, json_file)


def _trainer(spec: RunSpec, eager: bool):
    """What trains a network of its own by one batch; it has been called often enough to be captured."""
    runtime, classes = detect_runtime(), spec.data.num_classes
    model = network(spec).to(runtime.device, memory_format=torch.channels_last).train()
    pixels = torch.randn(spec.batch_size, 3, 32, 32).to(runtime.device, memory_format=torch.channels_last)
    labels = torch.arange(spec.batch_size, device=runtime.device) % classes
    taught = [3 * torch.randn(1, spec.batch_size, classes, device=runtime.device)] if spec.teachers else []
    trainer = step.Step(model, make_optimiser(spec.optimiser, model), spec, runtime)
    if eager:
        trainer._until_capture = float("inf")
    for _ in range(5):
        trainer((pixels, labels, *taught), 1)
    return lambda: trainer((pixels, labels, *taught), 1)
