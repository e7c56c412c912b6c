"""Binary convolutions and the Bayesian losses against closed forms, plain loops and PyTorch's own functions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdutils.distillation.bayesian import CENTRE_RATE, FeaturePrior, feature_loss, kernel_loss, kernel_losses
from kdutils.networks.binary import (
    SIGMA_FLOOR,
    BinaryConv2d,
    PReLU,
    binary_layers,
    mean_magnitude,
    sign,
    sign_activations,
    sign_weights,
)
from kdutils.networks.registry import build_model
from kdutils.networks.wide import _BinaryUnit

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
    for kernel, (w, g) in enumerate(
        zip(weights.detach().flatten(1).tolist(), upstream.flatten(1).tolist(), strict=True)
    ):
        n, signs = len(w), [1.0 if value >= 0 else -1.0 for value in w]
        scale, total = sum(map(abs, w)) / n, sum(a * b for a, b in zip(g, signs, strict=True))
        row = [signs[i] * total / n + g[i] * scale * (abs(w[i]) <= 1) for i in range(n)]
        expected[kernel] = torch.tensor(row, dtype=torch.float64).view(3, 3, 3)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_bonn_gradients_are_the_papers():
    weights, modulation = (
        _random(4, 3, 3, 3).requires_grad_(),
        torch.tensor(1.3, dtype=torch.float64, requires_grad=True),
    )
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
    scale = {
        "xnor": layer.weight.abs().mean((1, 2, 3))[:, None, None],
        "bonn": 1 / layer.modulation if mode == "bonn" else 0,
        "stem": layer.modulation if mode == "stem" else 0,
    }[mode]
    expected = F.conv2d(seen, signs, stride=2, padding=1) * scale
    torch.testing.assert_close(layer.train()(inputs), expected)
    torch.testing.assert_close(layer.eval()(inputs), expected)


def test_modulations_start_at_their_optimum():
    layer = BinaryConv2d(5, 7, 3, "bonn")
    best = layer.modulation.detach()

    def loss(w):
        return kernel_loss(layer.weight, w, layer.mu, layer.sigma)

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
    for mine, reference in zip(
        *(torch.autograd.grad(layer(inputs), (inputs, layer.weight), upstream) for layer in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, reference)


def test_kernel_loss_is_the_sum_over_every_entry_of_the_papers_equation():
    weights, mu, sigma = _random(3, 2, 3, 3), _random(3, seed=1).abs() + 0.1, _random(3, seed=2).abs() + 0.1
    weights[0, 0, 0, 0], w, weight, nu, expected = 0.0, 1.7, 0.3, 0.2, 0.0
    for kernel, m, s in zip(weights.flatten(1).tolist(), mu.tolist(), sigma.tolist(), strict=True):
        for x in kernel:
            bit = 1 if x >= 0 else -1
            expected += weight / 2 * ((bit - w * x) ** 2 + nu / s**2 * (abs(x) - m) ** 2 + nu * math.log(s**2))
    assert kernel_loss(weights, torch.tensor(w, dtype=torch.float64), mu, sigma, weight, nu).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_a_network_pays_the_kernel_loss_of_each_of_its_bonn_layers_once():
    model = build_model("wrn_16_1", 10, precision="bonn")
    for _, layer in binary_layers(model):
        layer.mu.data *= 1.1
    expected = sum(
        kernel_loss(m.weight, m.log_modulation.exp(), m.mu, F.softplus(m.raw_sigma) + 1e-3, 0.5, 0.2)
        for m in model.modules()
        if isinstance(m, BinaryConv2d)
    )
    assert kernel_losses(model, 0.5, 0.2).item() == pytest.approx(expected.item(), rel=1e-6)


def test_mu_and_sigma_are_best_at_mean_and_standard_deviation_of_the_magnitudes():
    weights, w = _random(4, 5, 3, 3), torch.tensor(0.9)
    mean, deviation = (
        weights.abs().flatten(1).mean(1).requires_grad_(),
        weights.abs().flatten(1).std(1, correction=0).requires_grad_(),
    )
    best = kernel_loss(weights, w, mean, deviation, 2.0, 1.0)
    for gradient in torch.autograd.grad(best, (mean, deviation)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-11, rtol=0)
    error = (1 - 0.9 * weights.abs()).square().sum()
    torch.testing.assert_close(
        best, error + (45 * (1 + deviation.square().log())).sum()
    )  # the likelihood's closed form at its maximum
    for factor in (0.9, 1.1):
        assert (
            kernel_loss(weights, w, mean * factor, deviation, 2.0, 1.0)
            > best
            < kernel_loss(weights, w, mean, deviation * factor, 2.0, 1.0)
        )


def test_a_layer_settles_on_mean_and_standard_deviation_of_its_magnitudes():
    layer = BinaryConv2d(5, 4, 3, "bonn")
    nn.init.normal_(layer.weight)
    layer.settle()
    for kernel, mu, sigma in zip(
        layer.weight.detach().abs().flatten(1).double().numpy(), layer.mu.tolist(), layer.sigma.tolist(), strict=True
    ):
        assert (mu, sigma) == (pytest.approx(kernel.mean(), rel=1e-5), pytest.approx(kernel.std(), rel=1e-4))


def bimodality(x: torch.Tensor) -> float:
    """Sarle's coefficient (skewness^2 + 1) / kurtosis: 1/3 for a normal distribution, 1 for two points."""
    z = (x - x.mean()) / x.std(correction=0)
    return ((z.pow(3).mean() ** 2 + 1) / z.pow(4).mean()).item()


@pytest.mark.parametrize(
    "w", [0.0, 2.0]
)  # with w = 0 the quantisation error is a constant: the prior alone moves the weights
def test_the_kernel_loss_parts_normal_weights_into_two_modes_at_mu(w):
    weights = (0.5 * _random(2, 16, 3, 3)).requires_grad_()
    before = weights.detach().clone()
    mu = before.abs().flatten(1).mean(1).requires_grad_()
    optimiser = torch.optim.SGD([weights, mu], 0.01)
    for _ in range(500):
        optimiser.zero_grad()
        kernel_loss(weights, torch.tensor(w), mu, torch.ones(2), kernel_weight=1.0, nu=1.0).backward()
        optimiser.step()
    after, modes = weights.detach(), mu.detach()[:, None, None, None]
    assert bimodality(before) < 0.4 and bimodality(after) > 0.95
    assert (before.abs() < modes / 2).double().mean() > 0.3 and (after.abs() < modes / 2).double().mean() == 0
    assert after.abs().std() < 0.1 * before.abs().std()
    torch.testing.assert_close(after, modes * sign(before), rtol=0.03, atol=0)  # to the side where it was
    torch.testing.assert_close(
        modes.flatten(), torch.full((2,), 1 / w).double() if w else before.abs().flatten(1).mean(1), rtol=1e-3, atol=0
    )


def test_equal_magnitudes_do_not_send_the_loss_to_minus_infinity():
    def lowest(floor: float) -> float:
        weights, raw_sigma = 0.5 * sign(_random(1, 4, 3, 3)), torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.Adam([raw_sigma], 0.1)
        for _ in range(300):
            optimiser.zero_grad()
            sigma = F.softplus(raw_sigma) + floor
            loss = kernel_loss(weights, torch.tensor(2.0), torch.full((1,), 0.5), sigma, kernel_weight=2.0, nu=1.0)
            loss.backward()
            optimiser.step()
        assert sigma.item() > floor
        return loss.item()

    bound = 36 * math.log(SIGMA_FLOOR**2)
    assert lowest(floor=0.0) < bound < lowest(floor=SIGMA_FLOOR) < bound / 2


def test_a_layers_sigma_has_the_floor():
    layer = BinaryConv2d(2, 3, 3, "bonn")
    layer.raw_sigma.data.fill_(-1e4)
    assert layer.sigma.tolist() == pytest.approx([SIGMA_FLOOR] * 3)
    nn.init.constant_(layer.weight, 0.5)  # nothing deviates from the mean
    layer.settle()
    assert torch.isfinite(layer.raw_sigma).all() and layer.sigma.min() > SIGMA_FLOOR


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_norm_after_the_convolution_cancels_the_weights_scale(mode):
    torch.manual_seed(0)
    layers, inputs = (
        nn.Sequential(BinaryConv2d(3, 4, 3, mode), nn.BatchNorm2d(4, eps=1e-30)).double(),
        _random(5, 3, 6, 6),
    )
    outputs = []
    for scale in (1, 7):
        layers[0].weight.data *= scale
        layers[0].settle()
        outputs.append((layers[0](inputs), layers(inputs)))
    (conv, normed), (scaled_conv, scaled_normed) = outputs
    torch.testing.assert_close(scaled_conv, 7 * conv)
    torch.testing.assert_close(scaled_normed, normed)


@pytest.mark.parametrize("mode", ["xnor", "bonn"])
def test_in_bonns_block_order_the_weights_scale_counts(mode):
    torch.manual_seed(0)
    unit, inputs = _BinaryUnit(4, 4, 1, mode).double(), _random(5, 4, 6, 6)
    one = unit(inputs)
    unit.conv.weight.data *= 7
    unit.conv.settle()
    assert (unit(inputs) - one).abs().mean() > one.abs().mean()


def test_a_unit_whose_convolution_is_silent_passes_its_inputs_on():
    unit, inputs = _BinaryUnit(4, 4, 1, "bonn"), torch.randn(2, 4, 6, 6)
    unit.conv.log_modulation.data.fill_(80.0)
    torch.testing.assert_close(unit(inputs), F.prelu(inputs, unit.act.weight))


def test_feature_loss_is_the_mean_over_samples_of_the_papers_equation():
    features, centres, sigma = _random(5, 3), _random(5, 3, seed=1), _random(5, 3, seed=2).abs() + 0.1
    expected = 0.0
    for f, c, s in zip(features.tolist(), centres.tolist(), sigma.tolist(), strict=True):
        expected += (
            0.3
            / 2
            / 5
            * sum((a - b) ** 2 + (a - b) ** 2 / d**2 + math.log(d**2) for a, b, d in zip(f, c, s, strict=True))
        )
    assert feature_loss(features, centres, sigma, 0.3).item() == pytest.approx(expected, rel=1e-12)


def test_centres_move_by_the_centre_loss_formula_after_the_loss():
    prior, features, labels = (
        FeaturePrior(4, 3),
        _random(9, 3).float().requires_grad_(),
        torch.tensor([0, 1, 1, 3, 3, 3, 0, 1, 3]),
    )
    prior.centres.copy_(_random(4, 3, seed=1))
    before, expected = prior.centres.clone(), prior.centres.clone()
    for j in range(4):
        members = [features[i].detach() for i in range(9) if labels[i] == j]
        expected[j] -= CENTRE_RATE * sum(before[j] - f for f in members) / (1 + len(members))
    prior(features, labels, 0.3).backward()
    torch.testing.assert_close(prior.centres, expected)
    assert torch.equal(prior.centres[2], before[2])  # nobody of class 2 was there
    assert prior.centres.grad is None and [name for name, _ in prior.named_parameters()] == ["raw_sigma"]
    sigma = (F.softplus(prior.raw_sigma) + SIGMA_FLOOR).detach()
    pull = (
        0.3 / 9 * (features.detach() - before[labels]) * (1 + 1 / sigma[labels].square())
    )  # with the centres of before
    torch.testing.assert_close(features.grad, pull)


def test_centres_find_the_class_means_and_sigma_the_deviations():
    labels = torch.arange(60) % 3
    features = (_random(60, 2) * torch.tensor([0.3, 2.0]) + labels[:, None]).float()
    prior = FeaturePrior(3, 2)
    optimiser = torch.optim.Adam(prior.parameters(), 0.05)
    for _ in range(300):
        optimiser.zero_grad()
        prior(features, labels, 1.0).backward()
        optimiser.step()
    for j in range(3):
        torch.testing.assert_close(prior.centres[j], features[labels == j].mean(0))
        torch.testing.assert_close(
            prior.sigma[j].detach(), features[labels == j].std(0, correction=0), rtol=0.01, atol=0
        )


def test_a_new_prior_has_standard_deviation_one():
    torch.testing.assert_close(FeaturePrior(3, 2).sigma, torch.ones(3, 2), atol=2 * SIGMA_FLOOR, rtol=0)


@pytest.mark.parametrize("precision", ["full", "stem", "xnor", "bonn"])
@pytest.mark.parametrize("name", ["wrn_16_7", "wrn_16_1", "wrn_22"])
def test_the_convolutions_that_a_precision_makes_binary_are_no_more_and_no_fewer(name, precision):
    with torch.device("meta"):
        model = build_model(name, 10, precision=precision)
    blocks = [
        key
        for key, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and key != "conv1"
    ]
    assert len(blocks) == {"wrn_16_7": 12, "wrn_16_1": 12, "wrn_22": 18}[name]
    binary = dict(binary_layers(model))
    assert list(binary) == {"full": [], "stem": ["conv1"], "xnor": blocks, "bonn": blocks}[precision]
    assert all(layer.mode == precision for layer in binary.values()) and type(model.fc) is nn.Linear
    if precision in ("xnor", "bonn"):
        units = [module for module in model.modules() if isinstance(module, _BinaryUnit)]
        assert len(units) == len(blocks)  # each with a shortcut of its own
        projections = [unit.shortcut for unit in units if unit.shortcut]
        assert {type(layer) for layer in projections} == {nn.Conv2d} and {
            layer.kernel_size for layer in projections
        } == {(1, 1)}
        assert len(projections) == (3 if name == "wrn_16_7" else 2)  # where the width changes


@pytest.mark.parametrize("mode", ["xnor", "bonn"])
def test_a_network_is_its_equations_written_out(mode):
    torch.manual_seed(0)
    model, inputs = build_model("wrn_16_1", 10, precision=mode).double(), _random(2, 3, 32, 32)
    p = dict(model.named_parameters())

    def norm(x, name):
        return F.batch_norm(x, None, None, p[f"{name}.weight"], p[f"{name}.bias"], training=True)

    features = F.conv2d(inputs, p["conv1.weight"], padding=1)
    for number in range(12):
        unit, stride = f"layers.{number}", 2 if number in (4, 8) else 1
        x = p[f"{unit}.conv.weight"]
        scale = (
            x.abs().mean((1, 2, 3))
            if mode == "xnor"
            else torch.full((len(x),), (x.square().sum() / x.abs().sum()).item(), dtype=torch.float64)
        )
        bits, kernels = (norm(features, f"{unit}.bn") >= 0).double() * 2 - 1, (x >= 0).double() * 2 - 1
        shortcut = (
            features
            if x.shape[0] == features.shape[1]
            else F.conv2d(features, p[f"{unit}.shortcut.weight"], stride=stride)
        )
        features = F.prelu(
            F.conv2d(bits, kernels, stride=stride, padding=1) * scale[:, None, None] + shortcut, p[f"{unit}.act.weight"]
        )
    expected = F.relu(norm(features, "bn")).mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]
    torch.testing.assert_close(model.train()(inputs), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_scaling_before_or_after_the_convolution_is_the_same_network(mode):
    torch.manual_seed(0)
    model, inputs = build_model("wrn_16_1", 10, precision=mode).double(), _random(2, 3, 32, 32)
    model(inputs)  # batch statistics of some sort
    after = model.eval()(inputs)
    for _, layer in binary_layers(model):
        layer.train()
    torch.testing.assert_close(model(inputs), after)


@pytest.mark.parametrize("precision", ["full", "stem", "xnor", "bonn"])
def test_gradients_reach_every_parameter(precision):
    torch.manual_seed(0)
    model = build_model("wrn_16_1", 10, precision=precision).train()
    loss = F.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8))
    (loss + kernel_losses(model)).backward() if precision == "bonn" else loss.backward()
    assert [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ] == []


@pytest.mark.parametrize("channels", [16, 224])
def test_sums_of_signs_are_exact_in_half_precision_up_to_the_rounding_of_the_result(channels):
    torch.manual_seed(0)
    layer, inputs = BinaryConv2d(channels, 8, 3, "bonn", padding=1).eval(), torch.randn(2, channels, 9, 9)
    layer.log_modulation.data.zero_()
    exact = F.conv2d(torch.where(inputs >= 0, 1.0, -1.0), torch.where(layer.weight >= 0, 1.0, -1.0), padding=1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours = layer(inputs.bfloat16())
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, exact.bfloat16())
    assert (channels > 28) or torch.equal(ours.float(), exact)  # whole numbers up to 256 are bfloat16's own
    assert torch.equal(layer(inputs), exact)
