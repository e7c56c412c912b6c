"""BONN's Bayesian losses of networks with 1-bit weights (Gu et al., ICCV 2019)."""

import torch
import torch.nn.functional as F
from torch import nn

from kdutils.networks.binary import SIGMA_FLOOR, binary_layers, sign

CENTRE_RATE = 0.5  # how fast class centres follow their features (Wen et al., ECCV 2016, section 4.1)


def kernel_loss(
    weights: torch.Tensor,
    modulation: torch.Tensor,
    mu: torch.Tensor,
    sigma: torch.Tensor,
    kernel_weight: float = 1e-4,
    nu: float = 1e-4,
) -> torch.Tensor:
    """BONN's Bayesian kernel loss of a layer, a scalar (Gu et al., ICCV 2019, eq. 10).

    weights X: [O, ...]; modulation w: []; mu, sigma: [O], one for each kernel. With lambda = kernel_weight,

        lambda/2 sum( |sign(X) - w X|^2 + nu / sigma^2 (|X| - mu)^2 + nu log sigma^2 )

    over all entries: the quantisation error, and minus the log-likelihood of a Gaussian with two modes at +mu and
    -mu. (log sigma^2 counts once for each entry of a kernel: it is the log-determinant of the kernel's covariance.)
    For L layers of one shape, [L, O, ...], [L] and [L, O], the result is the loss of each layer, [L].
    """
    kernels, scale = weights.flatten(mu.dim()), modulation[..., None, None]
    error = (sign(kernels.detach()) - scale * kernels).square().sum((-2, -1))
    deviations = (kernels.abs() - mu[..., None]).square().sum(-1)
    prior = (deviations / sigma.square() + kernels.shape[-1] * sigma.square().log()).sum(-1)
    return kernel_weight / 2 * (error + nu * prior)


def kernel_losses(model: nn.Module, kernel_weight: float = 1e-4, nu: float = 1e-4) -> torch.Tensor:
    """The sum of `kernel_loss` over the model's "bonn" layers, a scalar; layers of one shape are computed together."""
    alike: dict[torch.Size, list[tuple[torch.Tensor, ...]]] = {}
    for _, layer in binary_layers(model):
        if layer.mode == "bonn":
            given = layer.weight, layer.modulation, layer.mu, layer.sigma
            alike.setdefault(layer.weight.shape, []).append(given)
    stacked = (map(torch.stack, zip(*layers, strict=True)) for layers in alike.values())
    return torch.cat([kernel_loss(*layers, kernel_weight, nu) for layers in stacked]).sum()


def feature_loss(
    features: torch.Tensor, centres: torch.Tensor, sigma: torch.Tensor, feature_weight: float = 1e-2
) -> torch.Tensor:
    """BONN's Bayesian feature loss, averaged over the batch: a scalar (Gu et al., ICCV 2019, eq. 13).

    features f, and the centres c and standard deviations sigma of their classes: [B, D]. With theta = feature_weight,

        theta/2 ( |f - c|^2 + sum_k [ (f_k - c_k)^2 / sigma_k^2 + log sigma_k^2 ] )
    """
    distances = (features - centres).square()
    return feature_weight / 2 * (distances + distances / sigma.square() + sigma.square().log()).sum(1).mean()


class FeaturePrior(nn.Module):
    """The parameters of `feature_loss`, [classes, D] each: centres, which follow the features, and learned sigmas."""

    def __init__(self, num_classes: int, features: int):
        super().__init__()
        self.register_buffer("centres", torch.zeros(num_classes, features))
        self.raw_sigma = nn.Parameter(torch.full((num_classes, features), 0.5413))  # softplus of it is 1

    @property
    def sigma(self) -> torch.Tensor:
        """The standard deviation of each feature in each class, [classes, D], above `SIGMA_FLOOR`."""
        return F.softplus(self.raw_sigma) + SIGMA_FLOOR

    def forward(self, features: torch.Tensor, labels: torch.Tensor, feature_weight: float) -> torch.Tensor:
        """The feature loss of features [B, D] with class labels [B]; the centres then move towards the features:

        c_j -= rate * sum_{y=j} (c_j - f) / (1 + n_j) (Wen et al., "A Discriminative Feature Learning Approach", ECCV
        2016, eq. 4).
        """
        features = features.float()
        loss = feature_loss(features, self.centres[labels].clone(), self.sigma[labels], feature_weight)
        with torch.no_grad():
            members = F.one_hot(labels, len(self.centres)).to(features)
            counts = members.sum(0)[:, None]
            self.centres += CENTRE_RATE * (members.T @ features - counts * self.centres) / (1 + counts)
        return loss
