"""One step of training; captured and replayed on a GPU, because launching kernels one by one slows small networks."""

import warnings

import torch
from torch import nn

from kdutils.machine import Runtime
from kdutils.specs import RunSpec
from kdutils.training.objective import objective

_EAGER = 3  # steps before a capture: what libraries set up at first use must not be captured


class Step:
    """Forward and backward pass and update by one batch.

    On CUDA a pass over a whole batch is captured after a few steps and replayed from then on, with the same arithmetic
    (captured anew where the loss changes with the epoch). A loss that waits for the GPU cannot be captured: it is
    computed as usual, with a warning.
    """

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, spec: RunSpec, runtime: Runtime):
        self.names: tuple[str, ...] = ()  # of the values that a step returns
        self._model, self._optimiser, self._spec, self._runtime = model, optimiser, spec, runtime
        self._until_capture = _EAGER if runtime.device.type == "cuda" else float("inf")
        self._captured: tuple | None = None

    def __call__(self, batch: tuple[torch.Tensor, ...], epoch: int) -> torch.Tensor:
        """Train on a batch; returns loss, accuracy (%) and terms, as in `names`, before the update: float32, on device.

        batch: inputs [B, ...], labels int64 [B] and, where the run has teachers, their logits float32 [teachers, B,
        classes]; epoch: counted from 1.
        """
        found = self._replayed(batch, epoch) if len(batch[1]) == self._spec.batch_size else None
        if found is None:
            self._optimiser.zero_grad(set_to_none=True)
            found = self._passes(batch, epoch)
        self._optimiser.step()
        return found

    def _passes(self, batch: tuple[torch.Tensor, ...], epoch: int) -> torch.Tensor:
        inputs, labels, taught = (*batch, None)[:3]
        model, features = self._model, []  # before dropout and classifier, where a Bayesian loss takes them
        watched = model.dropout if hasattr(model, "feature_prior") else nn.Identity()
        with watched.register_forward_pre_hook(lambda _, given: features.append(given[0])), self._runtime.autocast():
            logits = model(inputs)
        seen = features.pop() if features else None
        loss, terms = objective(self._spec, model, logits.float(), labels, taught, seen, epoch)
        loss.backward()
        accuracy = 100 * (logits.argmax(1) == labels).float().mean()
        found = {"loss": loss, "accuracy": accuracy, **terms}
        self.names = tuple(found)
        return torch.stack([value.detach() for value in found.values()])

    def _replayed(self, batch: tuple[torch.Tensor, ...], epoch: int) -> torch.Tensor | None:
        """What the captured passes give for this batch; None where they are not captured."""
        self._until_capture -= 1
        if self._until_capture >= 0:
            return None
        stage = min(epoch, self._spec.distillation.method.warmup) if self._spec.distillation else 1
        if not self._captured or self._captured[0] != stage:
            self._captured = None  # frees memory for the next one
            self._optimiser.zero_grad(set_to_none=True)  # so that the captured pass writes gradients, not adds to them
            held, graph = tuple(part.clone() for part in batch), torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    found = self._passes(held, epoch)
            except RuntimeError as error:
                warnings.warn(f"steps are not captured, which costs time ({str(error).splitlines()[0]})", stacklevel=2)
                self._until_capture = float("inf")
                return None
            parameters = [parameter for group in self._optimiser.param_groups for parameter in group["params"]]
            self._captured = stage, graph, held, found, [(each, each.grad) for each in parameters]
        _, graph, held, found, gradients = self._captured
        for part, given in zip(held, batch, strict=True):
            part.copy_(given)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        graph.replay()
        return found
