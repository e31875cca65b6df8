"""The zoo itself: published sizes, sane activations at every depth, and graphs that torch.export can take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests import zoo
from tests.zoo.vit import VisionTransformer

# Published counts; those of MLPerf Tiny include the running statistics, as Keras counts them.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_small": 2_542_856,
    "squeezenet1_1": 1_235_496,
    "shufflenet_v2": 2_278_604,
    "densenet121": 7_978_856,
    "vit_tiny": 5_717_416,
    "bert": 22_565_376,
    "bert_embedded": 10_646_784,
}
PARAMETERS_AND_STATISTICS = {"ds_cnn": 24_908, "mobilenet_v1": 221_794, "autoencoder": 269_992, "resnet8": 78_666}
UNPUBLISHED = {"unet", "deeplab", "conv1d"}

OUTPUTS = {
    "unet": (2, 4, 32, 48),
    "deeplab": (2, 21, 64, 96),
    "ds_cnn": (2, 12),
    "mobilenet_v1": (2, 2),
    "autoencoder": (2, 640),
    "resnet8": (2, 10),
    "conv1d": (2, 5),
    "bert": (2, 16, 384),
    "bert_embedded": (2, 16, 384),
}


# A fixture of the module's scope, so that pytest runs all tests of one network in a row and it is built once.
@pytest.fixture(scope="module", params=zoo.ZOO)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(model: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(*args)
    return out


@pytest.mark.parametrize("small", [True, False])
def test_activations_keep_a_sane_scale(name: str, small: bool) -> None:
    """No layer explodes, vanishes or is dead at either size, and the samples of a batch stay apart."""
    model = zoo.build(name)
    deviations: dict[str, float] = {}

    def record(path: str) -> None:
        def hook(_module: nn.Module, _args: object, out: object) -> None:
            if isinstance(out, Tensor) and out.numel() > 1:
                deviations[path] = out.std().item()

        model.get_submodule(path).register_forward_hook(hook)

    for path, module in model.named_modules():
        if not list(module.children()):
            record(path)
    out = run(model, zoo.inputs(name, 2, seed=1, small=small))
    if small:
        assert tuple(out.shape) == OUTPUTS.get(name, (2, 1000))
    assert out.dtype == torch.float32 and bool(out.isfinite().all())
    assert 0.05 < out.std() < 5
    assert not torch.allclose(out[0], out[1], atol=1e-3)
    wild = {path: deviation for path, deviation in deviations.items() if not 0.01 < deviation < 10}
    assert deviations and not wild


def test_parameter_counts_are_the_published_ones(name: str) -> None:
    model = zoo.build(name)
    if name in PARAMETERS:
        assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    elif name in PARAMETERS_AND_STATISTICS:
        state = [tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point()]
        assert sum(state) == PARAMETERS_AND_STATISTICS[name]
    else:
        assert name in UNPUBLISHED


def test_exports_with_a_dynamic_batch(name: str) -> None:
    model = zoo.build(name)
    args = zoo.inputs(name, 2)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, args, dynamic_shapes=tuple({0: batch} for _ in args))
    for size in (1, 3):
        args = zoo.inputs(name, size, seed=size)
        torch.testing.assert_close(run(program.module(), args), run(model, args))


def test_symbolic_trace_gives_the_same_function(name: str) -> None:
    model = zoo.build(name)
    args = zoo.inputs(name, 2)
    optional = {"mask": None} if name == "bert_embedded" else None
    torch.testing.assert_close(run(torch.fx.symbolic_trace(model, optional), args), run(model, args))


def test_build_and_inputs_depend_on_their_arguments_only() -> None:
    first = zoo.build("resnet8", 3).state_dict()
    before = torch.get_rng_state()
    zoo._built.cache_clear()
    model = zoo.build("resnet8", 3)
    assert torch.equal(before, torch.get_rng_state())
    again, other = model.state_dict(), zoo.build("resnet8", 4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert not model.training and all(norm.momentum == 0.1 for norm in model.modules() if isinstance(norm, _BatchNorm))
    assert torch.equal(zoo.inputs("resnet8", 2, 5)[0], zoo.inputs("resnet8", 2, 5)[0])
    assert not torch.equal(zoo.inputs("resnet8", 2, 5)[0], zoo.inputs("resnet8", 2, 6)[0])


def test_a_build_is_the_callers_own() -> None:
    """Tests change what they build; the next one must not see it."""
    model = zoo.build("resnet8")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(bool(parameter.any()) for parameter in zoo.build("resnet8").parameters())


def test_a_transformer_can_be_shrunk() -> None:
    model = VisionTransformer(size=32, patch=8, width=24, depth=2, heads=3, classes=7).eval()
    assert run(model, (torch.zeros(2, 3, 32, 32),)).shape == (2, 7)
