"""Networks against published counts, torchvision, and arithmetic by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from kdutils.errors import InputError
from kdutils.networks.counting import forward_macs, layer_summary, parameter_count
from kdutils.networks.registry import MODELS, build_model, normal_options
from kdutils.networks.wide import _WideResNet


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
    assert (
        totals["Input size"],
        totals["Forward/backward pass size"],
        totals["Params size"],
        totals["Total Size"],
    ) == (0.01, 0.24, 1.02, 1.27)


@pytest.mark.parametrize(
    ("name", "published"), [("resnet18", 11_173_962), ("resnet50", 23_520_842), ("resnet101", None)]
)
@pytest.mark.parametrize("stem", ["imagenet", "resized", "cifar_pool", "cifar"])
def test_resnets_have_torchvisions_parameters_but_for_stem_and_head(name, published, stem):
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    width = 512 if name == "resnet18" else 2048
    expected = (
        weights.meta["num_params"]
        - (width + 1) * 1000
        + (width + 1) * 10
        - (0 if stem in ("imagenet", "resized") else 3 * 64 * (49 - 9))
    )
    assert parameter_count(on_paper(name, stem=stem)) == expected
    assert published is None or "cifar" not in stem or expected == published


def test_every_count_in_a_docstring_is_true():
    for name, factory in MODELS.items():
        counts = [f"{parameter_count(on_paper(name, classes)):,} parameters" for classes in (10, 100)]
        assert any(count in factory.__doc__ for count in counts)
        assert ("for 100 classes" in factory.__doc__) == (counts[1] in factory.__doc__)


@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("wrn_16_7", {}, 8_395_994),
        ("wrn_16_1", {}, 175_066),
        ("wrn_22", {}, 272_282),
        ("wrn_22", {"width": 64}, 4_326_986),
        ("reduced_cnn", {}, 4_577_290),
        ("resnet18", {"stem": "cifar"}, 11_173_962),
    ],
)
def test_the_networks_of_the_documents_have_their_published_parameters(name, options, published):
    assert parameter_count(on_paper(name, **options)) == published


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [("sparse_cnn", 10, 94_538), ("cnn4", 100, 799_652), ("resnet32x4", 100, 7_433_860), ("resnet8x4", 100, 1_233_540)],
)
def test_the_networks_of_studies_c_and_d_have_their_published_parameters(name, classes, published):
    assert parameter_count(on_paper(name, classes)) == published


@pytest.mark.parametrize(("name", "classes"), [("sparse_cnn", 10), ("cnn4", 100)])
def test_plain_cnns_are_their_documents_layers(name, classes):
    """Written out once more, in the documents' own order of ReLU and pooling."""
    model, images = build_model(name, classes).eval(), torch.randn(3, 3, 32, 32)
    a, b, c, *more = zip(*[iter(model.state_dict().values())] * 2, strict=True)  # weight and bias of every layer
    if name == "sparse_cnn":
        x = F.max_pool2d(F.relu(F.conv2d(images, *a, padding=1)), 2)
        x = F.max_pool2d(F.relu(F.conv2d(x, *b, padding=1)), 2)
        x = F.relu(F.conv2d(x, *c, padding=1)).mean((2, 3))
    else:
        x = F.relu(F.conv2d(images, *a, padding=2))
        x = F.max_pool2d(F.conv2d(x, *b, stride=2, padding=1), 2)
        x = F.relu(F.conv2d(x, *c, stride=2, padding=1))
        x = F.relu(F.conv2d(x, *more.pop(0), padding=1)).flatten(1)
    with torch.no_grad():
        torch.testing.assert_close(model(images), F.linear(x, *more[0]))


def functional_x4(state: dict[str, torch.Tensor], images: torch.Tensor, blocks: int) -> torch.Tensor:
    """The distillation literature's CIFAR ResNet in evaluation mode, from a state dict with its public names."""

    def norm(x, name):
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = F.relu(norm(F.conv2d(images, state["conv1.weight"], padding=1), "bn1"))
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        for block in range(blocks):
            name, step = f"layer{stage}.{block}", 1 if block else stride
            y = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=step, padding=1), f"{name}.bn1"))
            y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            x = F.relu(
                y
                + (
                    x
                    if block
                    else norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=step), f"{name}.downsample.1")
                )
            )
    return F.linear(F.avg_pool2d(x, 8).flatten(1), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize(("name", "blocks"), [("resnet8x4", 1), ("resnet32x4", 5)])
def test_the_x4_networks_are_the_literatures_function_under_the_literatures_names(name, blocks):
    model = build_model(name, 100)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 32, 32))  # running statistics that matter
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(
            model.eval()(images), functional_x4(model.state_dict(), images, blocks), rtol=1e-4, atol=1e-4
        )
    assert len([key for key in model.state_dict() if key.endswith("conv2.weight")]) == 3 * blocks


@pytest.mark.parametrize(("depth", "factor", "millions"), [(16, 8, 11.0), (22, 8, 17.2), (28, 10, 36.5), (40, 4, 8.9)])
def test_wide_residual_networks_have_the_parameters_of_their_papers_table(depth, factor, millions):
    """Zagoruyko and Komodakis (BMVC 2016), tables 4 and 5."""
    with torch.device("meta"):
        model = _WideResNet(10, (depth - 4) // 6, (16, 16 * factor, 32 * factor, 64 * factor), "full", 0.0)
    assert round(parameter_count(model) / 1e6, 1) == millions


@pytest.mark.parametrize("name", ["wrn_16_7", "wrn_22"])
def test_a_binary_network_adds_a_few_scalars_for_each_layer_and_kernel(name):
    full, stem, xnor, bonn = (on_paper(name, precision=precision) for precision in ("full", "stem", "xnor", "bonn"))
    kernels = [
        module.out_channels
        for key, module in full.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and key != "conv1"
    ]
    slopes = sum(kernels)  # of PReLU
    assert parameter_count(stem) == parameter_count(full) + 1
    assert parameter_count(xnor) == parameter_count(full) + slopes
    assert parameter_count(bonn) == parameter_count(full) + slopes + len(kernels) + 2 * sum(kernels)
    assert len({forward_macs(name, 10, precision=precision) for precision in ("full", "stem", "xnor", "bonn")}) == 1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("classes", [10, 100])
def test_logits_have_a_column_for_each_class(name, classes):
    with torch.device("meta"):
        assert build_model(name, classes).eval()(torch.empty(3, 3, 32, 32)).shape == (3, classes)


@pytest.mark.parametrize(
    ("stem", "sides"), [("imagenet", [16, 8, 8, 1]), ("cifar_pool", [32, 16, 16, 2]), ("cifar", [32, 32, 32, 4])]
)
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


def test_blocks_of_a_resnet50_may_start_as_their_shortcuts():
    torch.manual_seed(0)
    block = build_model("resnet50", 10, zero_init_residual=True).layer2[1]
    features = torch.rand(2, 512, 4, 4)
    assert torch.equal(block(features), features)
    assert not torch.equal(build_model("resnet50", 10).layer2[1](features), features)


def test_unknown_models_and_options_are_refused():
    with pytest.raises(InputError, match="vgg16.*small_cnn"):
        build_model("vgg16", 10)
    with pytest.raises(InputError, match="width.*stem"):
        build_model("resnet18", 10, width=2)
    with pytest.raises(InputError, match="cifar_pool.*huge"):
        build_model("resnet18", 10, stem="huge")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrn_22", {"precision": "ternary"}, "wrn_22, precision.*full.*stem.*xnor.*bonn.*ternary"),
        ("wrn_16_7", {"precision": True}, "wrn_16_7, precision.*True"),
        ("wrn_22", {"width": 32}, "wrn_22, width.*16 or 64.*32"),
        ("wrn_22", {"width": "64"}, "width.*'64'"),
        ("wrn_16_7", {"width": 16}, "wrn_16_7.*width.*precision, dropout"),
        ("wrn_16_1", {"dropout": 1.5}, "wrn_16_1, dropout.*less than 1.*1.5"),
        ("wrn_16_1", {"dropout": 1}, "less than 1"),
        ("reduced_cnn", {"dropout": -0.1}, "greater than or equal to 0.*-0.1"),
        ("reduced_cnn", {"dropout": "x"}, "reduced_cnn, dropout.*number.*'x'"),
        ("reduced_cnn", {"dropout": "0.5"}, "number.*'0.5'"),
        ("reduced_cnn", {"dropout": True}, "number.*True"),
        ("reduced_cnn", {"dropout": float("nan")}, "nan"),
    ],
)
def test_a_bad_option_is_refused_and_named(name, options, message):
    with pytest.raises(InputError, match=message):
        normal_options(name, options)
    with pytest.raises(InputError, match=message):
        build_model(name, 10, **options)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"dropout": 0}, {"width": 64, "precision": "bonn"}])
def test_a_good_option_is_taken(options):
    with torch.device("meta"):
        model = build_model("wrn_22", 10, **options)
    assert model.dropout.p == options.get("dropout", 0) and model.conv1.out_channels == options.get("width", 16)


@pytest.mark.parametrize(
    ("name", "options", "normal"),
    [
        ("wrn_22", {"width": 16.0, "dropout": 0, "precision": "full"}, {}),
        ("wrn_22", {"width": 64.0, "dropout": -0.0}, {"width": 64}),
        (
            "wrn_22",
            {"width": 64, "precision": "bonn", "dropout": 0.5},
            {"dropout": 0.5, "precision": "bonn", "width": 64},
        ),
        ("reduced_cnn", {"dropout": 0}, {"dropout": 0.0}),
        ("reduced_cnn", {"dropout": 0.5}, {}),
        ("resnet18", {"stem": "cifar_pool"}, {}),
        ("resnet101", {"stem": "cifar_pool"}, {"stem": "cifar_pool"}),
        ("small_cnn", {}, {}),
    ],
)
def test_equal_options_have_one_form(name, options, normal):
    found = normal_options(name, options)
    assert repr(found) == repr(normal) and normal_options(name, found) == found
    assert repr(normal_options(name, dict(reversed(options.items())))) == repr(normal)
    with torch.device("meta"):
        assert repr(build_model(name, 10, **options)) == repr(build_model(name, 10, **normal))


@pytest.mark.parametrize("value", [True, False, "16", None, 16.5])
def test_true_is_not_one_and_text_is_no_number(value):
    for name, option in (("wrn_22", "width"), ("wrn_22", "dropout"), ("reduced_cnn", "dropout")):
        with pytest.raises(InputError, match=f"{name}, {option}"):
            normal_options(name, {option: value})


def test_the_wide_residual_network_is_its_authors_functional_code():
    """As in github.com/szagoruyko/wide-residual-networks, pytorch/resnet.py: block(), group(), f()."""
    torch.manual_seed(0)
    model, images = build_model("wrn_16_1", 10).double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for _, buffer in model.named_buffers():
        buffer.copy_(torch.rand(buffer.shape) + 0.5 if buffer.is_floating_point() else buffer)
    p = model.state_dict()

    def norm(x, name):
        return F.batch_norm(x, *(p[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = F.conv2d(images, p["conv1.weight"], padding=1)
    for number in range(6):
        name, stride = f"layers.{number}", 2 if number in (2, 4) else 1
        first = F.relu(norm(x, f"{name}.bn1"))
        second = F.relu(norm(F.conv2d(first, p[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn2"))
        z = F.conv2d(second, p[f"{name}.conv2.weight"], padding=1)
        x = z + (F.conv2d(first, p[f"{name}.shortcut.weight"], stride=stride) if f"{name}.shortcut.weight" in p else x)
    expected = F.linear(F.avg_pool2d(F.relu(norm(x, "bn")), 8).flatten(1), p["fc.weight"], p["fc.bias"])
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("name", ["wrn_16_1", "reduced_cnn"])
def test_dropout_is_on_the_features_before_the_classifier_and_while_training_alone(name):
    torch.manual_seed(0)
    model, seen = build_model(name, 10, dropout=0.75), []
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    classifier.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0] == 0).float().mean().item()))
    for layer in model.modules():  # so that few features are zero by themselves
        if isinstance(layer, (nn.BatchNorm2d, nn.Linear)) and layer is not classifier:
            layer.bias.data += 3
    for mode in (True, False):
        model.train(mode)(torch.rand(8, 3, 32, 32))
    assert seen[0] == pytest.approx(0.75, abs=0.08) and seen[1] < 0.15


def test_reduced_cnn_is_three_times_conv_norm_relu_pool():
    torch.manual_seed(0)
    model, x = build_model("reduced_cnn", 10).eval(), torch.randn(2, 3, 32, 32)
    convs, norms = ([m for m in model.modules() if isinstance(m, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d))
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    features = x
    for conv, norm in zip(convs, norms, strict=True):
        features = F.max_pool2d(F.relu(norm(conv(features))), 2)
    torch.testing.assert_close(model(x), linear[1](F.relu(linear[0](features.flatten(1)))))


def test_a_resized_stem_is_torchvisions_network_on_torchvisions_resized_images():
    torch.manual_seed(0)
    ours = build_model("resnet18", 10, stem="resized", size=64).eval()
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(3, 3, 32, 32)
    resized = torchvision.transforms.functional.resize(images, [64, 64], antialias=False)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(resized), rtol=1e-4, atol=1e-5)
        assert (ours(images) - theirs(images)).abs().max() > 0.1
    small, large = (forward_macs("resnet18", 10, stem="resized", size=size) for size in (64, 128))
    assert large / small == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("size", [31, 513, 64.5, "64"])
def test_a_size_of_no_image_is_refused(size):
    with pytest.raises(InputError, match="size"):
        normal_options("resnet18", {"stem": "resized", "size": size})
