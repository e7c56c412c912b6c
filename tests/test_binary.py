import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdutils.binary import (
    SIGMA_FLOOR,
    BinaryConv2d,
    FeaturePrior,
    PReLU,
    binary_layers,
    feature_loss,
    kernel_loss,
    mean_magnitude,
    sign,
    sign_activations,
    sign_weights,
)
from kdutils.models import build_model

MODES = ("xnor", "bonn", "stem")


def _random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sign_is_plus_one_at_both_zeros(dtype):
    values = torch.tensor([-2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0] * 20, dtype=dtype)
    expected = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0, 1.0] * 20, dtype=dtype)
    assert torch.equal(sign(values), expected) and sign(values).dtype == dtype


def test_activation_gradient_is_the_slope_of_bi_reals_polynomial():
    activations = torch.linspace(-1.7, 1.7, 341, dtype=torch.float64, requires_grad=True)
    polynomial = torch.where(activations < 0, 2 * activations + activations**2, 2 * activations - activations**2)
    polynomial = torch.where(activations.abs() < 1, polynomial, torch.sign(activations).detach() + 0 * activations)
    upstream = _random(341)
    (ours,) = torch.autograd.grad(sign_activations(activations), activations, upstream)
    (theirs,) = torch.autograd.grad(polynomial, activations, upstream)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours, upstream * (2 - 2 * activations.detach().abs()).clamp(min=0), atol=1e-12, rtol=0)


def test_xnor_gradient_is_the_derivative_done_correctly():
    weights = (_random(4, 3, 3, 3) * 0.8).requires_grad_()
    with torch.no_grad():
        weights[0, 0, 0, 0], weights[1, 2, 1, 1] = 0.0, 1.7  # on the edge of sign, and beyond the clip
    upstream = _random(4, 3, 3, 3, seed=1)
    (ours,) = torch.autograd.grad(mean_magnitude(weights) * sign_weights(weights), weights, upstream)
    expected = torch.empty_like(weights)
    for kernel, (w, g) in enumerate(zip(weights.detach().flatten(1).tolist(), upstream.flatten(1).tolist())):
        n, signs = len(w), [1.0 if value >= 0 else -1.0 for value in w]
        scale, total = sum(map(abs, w)) / n, sum(a * b for a, b in zip(g, signs))
        row = [signs[i] * total / n + g[i] * scale * (abs(w[i]) <= 1) for i in range(n)]
        expected[kernel] = torch.tensor(row, dtype=torch.float64).view(3, 3, 3)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_bonn_gradients_are_the_papers():
    weights, modulation = _random(4, 3, 3, 3).requires_grad_(), torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    upstream = _random(4, 3, 3, 3, seed=1)
    by_weights, by_modulation = torch.autograd.grad(sign_weights(modulation * weights), (weights, modulation), upstream)
    inside = (modulation * weights).detach().abs() <= 1
    assert 0 < inside.sum() < inside.numel()
    torch.testing.assert_close(by_weights, upstream * inside * modulation.detach())
    torch.testing.assert_close(by_modulation, (upstream * inside * weights.detach()).sum())


@pytest.mark.parametrize("mode", MODES)
def test_layer_computes_its_equation(mode):
    torch.manual_seed(0)
    layer, inputs = BinaryConv2d(5, 7, 3, mode, stride=2, padding=1).double(), _random(2, 5, 9, 9)
    seen = inputs if mode == "stem" else torch.where(inputs >= 0, 1.0, -1.0).double()
    signs = torch.where(layer.weight >= 0, 1.0, -1.0).double()
    scale = {"xnor": layer.weight.abs().mean((1, 2, 3))[:, None, None], "bonn": 1 / layer.modulation if mode == "bonn" else 0, "stem": layer.modulation if mode == "stem" else 0}[mode]
    expected = F.conv2d(seen, signs, stride=2, padding=1) * scale
    torch.testing.assert_close(layer.train()(inputs), expected)
    torch.testing.assert_close(layer.eval()(inputs), expected)


def test_modulations_start_at_their_optimum():
    layer = BinaryConv2d(5, 7, 3, "bonn")
    loss = lambda w: kernel_loss(layer.weight, w, layer.mu, layer.sigma)
    best = layer.modulation.detach()
    assert best == pytest.approx((layer.weight.abs().sum() / layer.weight.square().sum()).item(), rel=1e-5)
    assert loss(best) < loss(best * 1.01) and loss(best) < loss(best / 1.01)
    assert BinaryConv2d(5, 7, 3, "stem").modulation.item() > 0


def test_prelu_equals_pytorchs():
    inputs = _random(3, 4, 5, 5).requires_grad_()
    ours, theirs = PReLU(4).double(), nn.PReLU(4).double()
    for layer in (ours, theirs):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.25, 0.0, 1.5, -0.3]))
    upstream = _random(3, 4, 5, 5, seed=1)
    torch.testing.assert_close(ours(inputs), theirs(inputs))
    for mine, reference in zip(*(torch.autograd.grad(layer(inputs), (inputs, layer.weight), upstream) for layer in (ours, theirs))):
        torch.testing.assert_close(mine, reference)
