"""The loss that a run minimises: the only one, called by the loop, the chapters and the tests."""

import torch
import torch.nn.functional as F
from torch import nn

from kdutils.distillation.bayesian import kernel_losses
from kdutils.distillation.methods import Terms, method_loss
from kdutils.specs import RunSpec


def objective(
    spec: RunSpec,
    model: nn.Module,
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor | None = None,
    features: torch.Tensor | None = None,
    epoch: int = 1,
) -> tuple[torch.Tensor, Terms]:
    """The loss of one batch, and the terms that it is made of, by name; scalars, float32 (nats).

    logits: float32 [B, classes] of `model`; labels: int64 [B]; teacher_logits: float32 [teachers, B, classes] where
    `spec` distils; features: [B, D] before the classifier, for a Bayesian feature loss; epoch: counted from 1.
    Terms: `ce` if there are others; `kd` of distillation and its parts; `kernel` and `feature` of the Bayesian losses,
    multiplied by their weights.
    """
    if spec.distillation:
        loss, terms = method_loss(spec.distillation.method, logits, teacher_logits, labels, epoch)
    else:
        loss = F.cross_entropy(logits, labels)
        terms = {"ce": loss} if spec.bayesian else {}
    if spec.bayesian:
        terms["kernel"] = kernel_losses(model, spec.bayesian.kernel_weight, spec.bayesian.nu)
        loss = loss + terms["kernel"]
    if features is not None:
        terms["feature"] = model.feature_prior(features, labels, spec.bayesian.feature_weight)
        loss = loss + terms["feature"]
    return loss, terms
