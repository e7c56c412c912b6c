"""Networks against published counts, torchvision, and arithmetic by hand."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from kdutils.models import (
    IMAGENET_CLASSES, MODELS, TRAINABLE, build_model, forward_macs, freeze, layer_summary, load_imagenet, parameter_count, train_mode,
)  # fmt: skip
from kdutils.specs import InputError


def on_paper(name: str, classes: int = 10, **options) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build_model(name, classes, **options)


def test_small_cnn_has_the_published_layers_and_parameters():
    by_hand = (3 * 9 * 16 + 16) + (16 * 9 * 32 + 32) + (2048 * 128 + 128) + (128 * 10 + 10)
    assert parameter_count(on_paper("small_cnn")) == by_hand == 268_650
    layers, totals = layer_summary(build_model("small_cnn", 10))
    assert [int(str(count).replace(",", "")) for count in layers["parameters"]] == [448, 0, 4640, 0, 262_272, 1290]
    assert layers["output shape"].iloc[2] == "[32, 16, 16]"
    assert totals["Total params"] == 268_650
    assert (totals["Input size"], totals["Forward/backward pass size"], totals["Params size"], totals["Total Size"]) == (0.01, 0.24, 1.02, 1.27)


@pytest.mark.parametrize(("name", "published"), [("resnet18", 11_173_962), ("resnet50", 23_520_842), ("resnet101", None)])
@pytest.mark.parametrize("stem", ["imagenet", "cifar_pool", "cifar"])
def test_resnets_have_torchvisions_parameters_but_for_stem_and_head(name, published, stem):
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    width = 512 if name == "resnet18" else 2048
    expected = weights.meta["num_params"] - (width + 1) * 1000 + (width + 1) * 10 - (0 if stem == "imagenet" else 3 * 64 * (49 - 9))
    assert parameter_count(on_paper(name, stem=stem)) == expected
    assert published is None or stem == "imagenet" or expected == published


def test_every_count_in_a_docstring_is_true():
    for name, factory in MODELS.items():
        assert f"{parameter_count(on_paper(name)):,} parameters" in factory.__doc__


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("classes", [10, 100])
def test_logits_have_a_column_for_each_class(name, classes):
    with torch.device("meta"):
        assert build_model(name, classes).eval()(torch.empty(3, 3, 32, 32)).shape == (3, classes)


@pytest.mark.parametrize(("stem", "sides"), [("imagenet", [16, 8, 8, 1]), ("cifar_pool", [32, 16, 16, 2]), ("cifar", [32, 32, 32, 4])])
def test_stems_leave_feature_maps_of_their_size(stem, sides):
    model, seen = on_paper("resnet18", stem=stem), []
    for part in (model.conv1, model.maxpool, model.layer1, model.layer4):
        part.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    model.eval()(torch.empty(1, 3, 32, 32, device="meta"))
    assert seen == sides


def test_the_default_stem_is_the_one_of_the_studies():
    for name, kernel in (("resnet18", (3, 3)), ("resnet50", (3, 3)), ("resnet101", (7, 7))):
        model = on_paper(name)
        assert model.conv1.kernel_size == kernel and isinstance(model.maxpool, nn.MaxPool2d)


def test_unknown_models_and_options_are_refused():
    with pytest.raises(InputError, match="vgg16.*small_cnn"):
        build_model("vgg16", 10)
    with pytest.raises(InputError, match="width.*stem"):
        build_model("resnet18", 10, width=2)
    with pytest.raises(InputError, match="cifar_pool.*huge"):
        build_model("resnet18", 10, stem="huge")


def test_a_summary_leaves_the_model_its_mode_and_the_random_stream_alone():
    model = build_model("resnet18", 10, stem="imagenet").train()
    model.layer1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random = torch.get_rng_state()
    layer_summary(model)
    assert torch.equal(torch.get_rng_state(), random) and modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def imagenet(folder, monkeypatch, change=lambda state: state) -> dict[str, torch.Tensor]:
    """Random weights written as this machine's own `resnet18.safetensors`."""
    monkeypatch.setenv("KD_DATA_DIR", str(folder))
    (folder / "imagenet").mkdir()
    torch.manual_seed(5)
    model = torchvision.models.resnet18(num_classes=IMAGENET_CLASSES)
    for name, buffer in model.named_buffers():
        buffer.copy_(torch.rand(buffer.shape) + 1 if buffer.is_floating_point() else torch.tensor(7))
    state = model.state_dict()
    save_file(change(dict(state)), folder / "imagenet" / "resnet18.safetensors")
    return state


@pytest.mark.parametrize("stem", ["imagenet", "cifar_pool"])
def test_imagenet_weights_fill_all_but_the_head(tmp_path, monkeypatch, stem):
    state = imagenet(tmp_path, monkeypatch)
    model = build_model("resnet18", 10, stem=stem)
    head = model.fc.weight.clone(), model.fc.bias.clone()
    source = load_imagenet(model, "resnet18")
    assert "resnet18.safetensors" in source and "SHA-256" in source
    assert torch.equal(model.fc.weight, head[0]) and torch.equal(model.fc.bias, head[1])
    for name, tensor in model.state_dict().items():
        if not name.startswith("fc."):
            expected = state[name][:, :, 2:-2, 2:-2] if (name, stem) == ("conv1.weight", "cifar_pool") else state[name]
            assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("stem", ["imagenet", "cifar_pool"])
def test_a_file_without_a_stem_does_not_fit(tmp_path, monkeypatch, stem):
    imagenet(tmp_path, monkeypatch, lambda state: {name: tensor for name, tensor in state.items() if name != "conv1.weight"})
    with pytest.raises(InputError, match="does not fit resnet18.*conv1.weight"):
        load_imagenet(build_model("resnet18", 10, stem=stem), "resnet18")


def test_a_stem_of_other_kernels_does_not_fit(tmp_path, monkeypatch):
    imagenet(tmp_path, monkeypatch, lambda state: state | {"conv1.weight": torch.zeros(64, 3, 5, 5)})
    with pytest.raises(InputError, match="does not fit resnet18"):
        load_imagenet(build_model("resnet18", 10), "resnet18")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {name: tensor for name, tensor in state.items() if name != "layer2.0.bn1.running_mean"},
        lambda state: state | {"layer9.weight": torch.zeros(1)},
        lambda state: state | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)},
    ],
)
def test_weights_of_another_network_do_not_fit(tmp_path, monkeypatch, change):
    imagenet(tmp_path, monkeypatch, change)
    model = build_model("resnet18", 10)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="does not fit resnet18"):
        load_imagenet(model, "resnet18")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_damaged_weights_file_is_named(tmp_path, monkeypatch, content):
    imagenet(tmp_path, monkeypatch)
    path = tmp_path / "imagenet" / "resnet18.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(InputError, match="resnet18.safetensors is damaged"):
        load_imagenet(build_model("resnet18", 10), "resnet18")


def test_without_file_and_network_the_place_for_the_file_is_named():
    with pytest.raises(InputError, match="imagenet/resnet18.safetensors"):
        load_imagenet(build_model("resnet18", 10), "resnet18")


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


def test_macs_of_small_cnn_by_hand():
    by_hand = 32 * 32 * 16 * 3 * 9 + 16 * 16 * 32 * 16 * 9 + 2048 * 128 + 128 * 10
    assert forward_macs("small_cnn", 10, {}) == by_hand == 1_885_440


@pytest.mark.parametrize("stem", ["imagenet", "cifar_pool", "cifar"])
def test_macs_of_resnet18_by_counting_every_layer(stem):
    model, total = on_paper("resnet18", stem=stem).eval(), []

    def count(module, inputs, output):
        per_output = module.in_features if isinstance(module, nn.Linear) else module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        total.append(output.numel() * per_output)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, 32, 32, device="meta"))
    assert forward_macs("resnet18", 10, {"stem": stem}) == sum(total)


def test_counting_macs_leaves_the_random_stream_alone():
    state = torch.get_rng_state()
    forward_macs("resnet18", 17, {})
    assert torch.equal(torch.get_rng_state(), state)
