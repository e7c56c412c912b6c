"""Binary convolutions: the estimators and the layer of networks with 1-bit weights.

Sources: XNOR-Net (Rastegari et al., ECCV 2016), Bi-Real Net (Liu et al., ECCV 2018) and BONN, "Bayesian Optimized 1-Bit
CNNs" (Gu et al., ICCV 2019). sign(0) is +1 everywhere, as a bit has two values.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

Mode = Literal["xnor", "bonn", "stem"]
SIGMA_FLOOR = 1e-3  # standard deviations stay above it, else log sigma^2 falls without end
UNDECAYED = ("log_modulation", "mu", "raw_sigma")  # parameters that weight decay leaves alone


def sign(x: torch.Tensor) -> torch.Tensor:
    """+1 where x >= 0, else -1, in x's shape and dtype; no gradient. (`torch.sign` gives 0 at 0.)"""
    return torch.copysign(x.new_ones(()), x + 0)  # + 0 turns the float -0.0 into +0.0


class _Sign(torch.autograd.Function):
    """sign(x) with the pseudo-gradient that `estimator` gives from x and dL/dsign."""

    @staticmethod
    def forward(context, x: torch.Tensor, estimator: Callable) -> torch.Tensor:
        context.save_for_backward(x)
        context.estimator = estimator
        return sign(x)

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return context.estimator(*context.saved_tensors, gradient), None


def _bi_real(activations: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    inside = torch.ops.aten.hardtanh_backward(gradient, activations, -1.0, 1.0)  # 0 where |a| >= 1
    return torch.addcmul(inside, inside, activations.abs(), value=-1).mul_(2)


def sign_activations(activations: torch.Tensor) -> torch.Tensor:
    """sign(a) with Bi-Real Net's pseudo-gradient, dL/da = dL/dsign * max(0, 2 - 2|a|); any shape, any floating dtype.

    This is the slope of the polynomial that approximates sign to second order (Liu et al., ECCV 2018, eq. 7 and 8).
    """
    return _Sign.apply(activations, _bi_real)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(context, inputs: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        slope = slope[:, None, None].to(inputs.dtype)
        context.save_for_backward(inputs, slope)
        return inputs.clamp(max=0).mul_(slope - 1).add_(inputs)

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, slope = context.saved_tensors
        positive = torch.ops.aten.threshold_backward(gradient, inputs, 0)
        negative = gradient - positive
        by_slope = (negative * inputs).permute(0, 2, 3, 1).reshape(-1, inputs.shape[1]).sum(0)
        return negative.mul_(slope).add_(positive), by_slope


class PReLU(nn.PReLU):
    """max(x, 0) + slope * min(x, 0), a slope for each channel of [B, C, H, W]; PyTorch's kernel is slow on CPUs."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.is_cuda:
            return F.prelu(inputs, self.weight.to(inputs.dtype))
        return _PReLU.apply(inputs, self.weight)


def sign_weights(weights: torch.Tensor) -> torch.Tensor:
    """sign(x) with the pseudo-gradient dL/dx = dL/dsign * 1{|x| <= 1} (Rastegari et al., ECCV 2016, section 3.1).

    For w X this is BONN's estimator: dL/dX = dL/dsign * 1{|w X| <= 1} * w and dL/dw = sum dL/dsign * 1{|w X| <= 1} * X
    (Gu et al., ICCV 2019, section 3.4).
    """
    return _Sign.apply(weights, lambda weights, gradient: gradient * (weights.abs() <= 1))


def mean_magnitude(weights: torch.Tensor) -> torch.Tensor:
    """XNOR-Net's scale, the mean of |W| of each output channel: [O, ...] -> [O, 1, ...] (ECCV 2016, eq. 6).

    Its derivative is sign(W) / n with sign(0) = +1, so that scale * `sign_weights(W)`, whose gradient is g, gives
    dL/dW_i = (1/n) sign(W_i) sum_j [g_j sign(W_j)] + g_i scale 1{|W_i| <= 1}.
    """
    return (weights * sign(weights.detach())).mean(dim=tuple(range(1, weights.dim())), keepdim=True)


class BinaryConv2d(nn.Conv2d):
    """A convolution with the signs of its weights and a scale: float [B, C, H, W] -> [B, O, H', W'], no bias.

    The optimiser moves the latent weights X (`weight`, full precision). The output, by mode, for inputs A:

    - "xnor": sign(A) conv sign(X), times mean|X| of each output channel;
    - "bonn": sign(A) conv sign(X), divided by the layer's modulation scalar w, which is learned and starts at its
      optimum sum|X| / sum X^2. (The paper's algorithm 1 multiplies by w; its residual |sign(X) - w X| implies 1 / w.)
    - "stem": A conv sign(X), times the layer's modulation scalar, which is learned and starts at mean|X|. The inputs
      stay as they are: this is for a network's first convolution.

    w > 0 is stored as `log_modulation`. In "bonn" mode `mu` and `raw_sigma` [O] describe the prior of each kernel, see
    `kernel_loss`. In evaluation mode the scale is applied after the convolution, whose values are then whole
    numbers, exact in float32 up to 2^24.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, mode: Mode, stride: int = 1, padding: int = 0
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.mode = mode
        if mode != "xnor":
            self.log_modulation = nn.Parameter(torch.zeros(()))
        if mode == "bonn":
            self.mu = nn.Parameter(torch.zeros(out_channels))
            self.raw_sigma = nn.Parameter(torch.zeros(out_channels))
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Set the modulation, mu and sigma to their optimum for the present latent weights."""
        magnitudes = self.weight.abs()
        if self.mode == "stem":
            self.log_modulation.copy_(magnitudes.mean().log())
        if self.mode == "bonn":
            self.log_modulation.copy_((magnitudes.sum() / self.weight.square().sum()).log())
            magnitudes = magnitudes.flatten(1)
            self.mu.copy_(magnitudes.mean(1))
            sigma = magnitudes.std(1, correction=0).clamp_min(2 * SIGMA_FLOOR)
            self.raw_sigma.copy_((sigma - SIGMA_FLOOR).expm1().log())  # the inverse of softplus

    @property
    def modulation(self) -> torch.Tensor:
        """The modulation scalar w > 0 of modes "bonn" and "stem"."""
        return self.log_modulation.exp()

    @property
    def sigma(self) -> torch.Tensor:
        """The prior's standard deviation of each kernel, [O], above `SIGMA_FLOOR`."""
        return F.softplus(self.raw_sigma) + SIGMA_FLOOR

    def signs_and_scale(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The signs of the weights [O, C, kh, kw] and their scale, [O, 1, 1, 1] or [], with their pseudo-gradients."""
        if self.mode == "bonn":
            return sign_weights(self.modulation * self.weight), 1 / self.modulation
        return sign_weights(self.weight), self.modulation if self.mode == "stem" else mean_magnitude(self.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.mode != "stem":
            inputs = sign_activations(inputs)
        signs, scale = self.signs_and_scale()
        if self.training:  # scale the small weights rather than the large output
            return self._conv_forward(inputs, scale * signs, None)
        return self._conv_forward(inputs, signs, None) * (scale.flatten()[:, None, None] if scale.dim() else scale)


def binary_layers(model: nn.Module) -> Iterator[tuple[str, BinaryConv2d]]:
    """Name and module of every binary convolution, in the model's order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, BinaryConv2d))
