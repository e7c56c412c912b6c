"""Which parts of a network train: those a policy names, and nothing else moves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdutils.networks.registry import build_model
from kdutils.training.frozen import TRAINABLE, freeze, train_mode

POLICIES = {"head": {"fc"}, "last_block": {"layer4", "fc"}, "layer3_up": {"layer3", "layer4", "fc"}}


@pytest.mark.parametrize("stem", ["imagenet", "cifar_pool"])
@pytest.mark.parametrize("policy", [*POLICIES, "all"])
def test_a_policy_trains_the_parts_it_names_and_nothing_else_moves(policy, stem):
    torch.manual_seed(0)
    model = build_model("resnet18", 10, stem=stem)
    freeze(model, policy)
    every = {name for name, child in model.named_children() if list(child.parameters())}
    expected = every if policy == "all" else POLICIES[policy] | (set() if stem == "imagenet" else {"conv1", "bn1"})
    before = copy.deepcopy(model.state_dict())
    train_mode(model)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    optimiser.step()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == expected
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.split(".")[0] in expected}


def test_the_registry_of_policies_is_the_one_tested():
    assert {policy: set(parts) for policy, parts in TRAINABLE.items()} == POLICIES
