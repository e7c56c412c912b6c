"""Multiply-accumulates and torchsummary's layers, counted by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdutils.errors import InputError
from kdutils.networks.counting import accounting, forward_macs, layer_summary
from kdutils.networks.registry import MODELS, build_model


def on_paper(name: str, classes: int = 10, **options) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build_model(name, classes, **options)


def test_a_summary_leaves_the_model_its_mode_and_the_random_stream_alone():
    model = build_model("resnet18", 10, stem="imagenet").train()
    model.layer1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random = torch.get_rng_state()
    layer_summary(model)
    assert torch.equal(torch.get_rng_state(), random) and modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_macs_of_small_cnn_by_hand():
    by_hand = 32 * 32 * 16 * 3 * 9 + 16 * 16 * 32 * 16 * 9 + 2048 * 128 + 128 * 10
    assert forward_macs("small_cnn", 10) == by_hand == 1_885_440


@pytest.mark.parametrize("stem", ["imagenet", "cifar_pool", "cifar"])
def test_macs_of_resnet18_by_counting_every_layer(stem):
    model, total = on_paper("resnet18", stem=stem).eval(), []

    def count(module, inputs, output):
        per_output = (
            module.in_features
            if isinstance(module, nn.Linear)
            else module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        )
        total.append(output.numel() * per_output)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, 32, 32, device="meta"))
    assert forward_macs("resnet18", 10, stem=stem) == sum(total)


OPTIONS = {"resnet18": {"stem": "cifar"}, "wrn_16_1": {"precision": "bonn"}, "wrn_22": {"precision": "stem"}}


@pytest.mark.parametrize("name", MODELS)
def test_macs_of_every_layer_are_those_of_its_shapes_and_sum_to_the_networks(name):
    options = OPTIONS.get(name, {})
    model, counted = on_paper(name, **options).eval(), {}
    for layer, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            size = module.weight[0].numel()
            module.register_forward_hook(
                lambda _, __, outputs, layer=layer, size=size: counted.update({layer: outputs[0].numel() * size})
            )
    model(torch.empty(1, 3, 32, 32, device="meta"))
    table = accounting(on_paper(name, **options)).set_index("layer")["MACs"]
    assert {layer: macs for layer, macs in table.items() if macs} == counted
    assert table.sum() == sum(counted.values()) == forward_macs(name, 10, **options)


def test_what_torchsummary_does_not_see_is_not_taken_from_it():
    layers, totals = layer_summary(build_model("wrn_16_1", 10, precision="xnor"))
    assert totals["Total params"] == sum(int(count.replace(",", "")) for count in layers["parameters"])
    for precision in ("bonn", "stem"):
        with pytest.raises(InputError, match="torchsummary does not see all parameters.*accounting"):
            layer_summary(build_model("wrn_16_1", 10, precision=precision))


def test_counting_macs_leaves_the_random_stream_alone():
    state = torch.get_rng_state()
    forward_macs("resnet18", 17)
    assert torch.equal(torch.get_rng_state(), state)
