"""What a training step costs with each method of distillation, beside knowledge distillation's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kdutils.distillation.methods import METHODS, Method, build_method
from kdutils.machine import detect_runtime
from kdutils.runs.records import environment
from kdutils.training.objective import objective
from kdutils.training.optimisers import make_optimiser

from .baseline import network
from .benchmark import _kept, _printed, cifar100_spec


def benchmark_methods(rounds: int = 40, batch: int = 64, json_file: Path | None = None) -> dict:
    """Measure a step of study D's student with every method, print it, return (and write to `json_file`) all figures.

    One process with all threads; a step is forward, loss, backward and the optimiser, on random pixels and teacher
    logits (two teachers where a method needs several). The methods take turns; `ratio` is the median over `rounds` of
    the time over KD's in the same round.
    """
    steps = {name: _step(build_method(name), batch) for name in METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:  # the first prepares kernels
                seconds[name].append(time.perf_counter() - began)
    rows = [
        {
            "method": name,
            "step (ms)": 1000 * statistics.median(taken),
            "ratio": statistics.median(ours / kd for ours, kd in zip(taken, seconds["kd"], strict=True)),
        }
        for name, taken in seconds.items()
    ]
    print(_printed(rows, 3))
    result = {"methods": rows, "rounds": rounds, "batch": batch, "threads": torch.get_num_threads()}
    return _kept(result | {"environment": environment(detect_runtime())}, json_file)


def _step(method: Method, batch: int) -> Callable[[], float]:
    """A step that trains a network of its own, and waits for its loss."""
    spec, runtime = cifar100_spec(batch, 1), detect_runtime()
    teachers = spec.teachers * int(method.teachers[0])
    spec = spec.with_(distillation=spec.distillation.with_(teachers=teachers, method=method), batch_size=batch)
    model = network(spec).to(runtime.device, memory_format=torch.channels_last).train()
    optimiser = make_optimiser(spec.optimiser, model)
    pixels = torch.randn(batch, 3, 32, 32).to(runtime.device, memory_format=torch.channels_last)
    labels = torch.arange(batch, device=runtime.device) % spec.data.num_classes
    taught = 3 * torch.randn(len(teachers), batch, spec.data.num_classes, device=runtime.device)

    def step() -> float:
        with runtime.autocast():
            logits = model(pixels)
        loss, _ = objective(spec, model, logits.float(), labels, taught)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step
