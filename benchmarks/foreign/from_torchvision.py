"""torchvision: the smallest of every family that it has, classification, segmentation, video and optical flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.foreign.architecture import Architecture, images, normal

# By size of the image.
_CLASSES = {
    64: (
        "convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s mnasnet0_5 mobilenet_v2 mobilenet_v3_small "
        "mobilenet_v3_large regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5 "
        "shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 swin_t swin_v2_t vgg11 vgg11_bn wide_resnet50_2"
    ),
    75: "alexnet googlenet",
    96: "inception_v3",
    224: "maxvit_t vit_b_16",
}
_MAPS = "deeplabv3_mobilenet_v3_large deeplabv3_resnet50 fcn_resnet50 lraspp_mobilenet_v3_large"
_VIDEOS = {(3, 4, 32, 32): "mc3_18 r2plus1d_18 r3d_18", (3, 8, 64, 64): "swin3d_t"}
_LONG_VIDEOS = {(3, 16, 224, 224): "mvit_v1_b mvit_v2_s s3d"}


def register_operators() -> None:
    """Declare the operators that torchvision imports even without its compiled part, which a build of torch for other
    hardware cannot load; architectures need none of them."""
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}{_SIGNATURE}")  # type: ignore[no-untyped-call]
        _KEPT.append(library)


_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_KEPT: list[torch.library.Library] = []


def _made(name: str, **options: Any) -> nn.Module:
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None, **options)
    return model


class _Flow(nn.Module):
    """RAFT with few iterations, and of its flows the last."""

    def __init__(self) -> None:
        super().__init__()
        self.model = _made("raft_small")

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Two images (N, 3, H, W) to the flow (N, 2, H, W)."""
        flow: torch.Tensor = self.model(first, second, num_flow_updates=2)[-1]
        return flow


def architectures() -> Iterator[Architecture]:
    """All of them."""
    for size, names in _CLASSES.items():
        options = {"init_weights": True} if size in (75, 96) else {}
        for name in names.split():
            own = {**options, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
            yield _one(name, partial(_made, name, **own), images(size))
    for name in _MAPS.split():
        yield _one(name, partial(_made, name, weights_backbone=None, aux_loss=None), images(64))
    for shape, names in {**_VIDEOS, **_LONG_VIDEOS}.items():
        for name in names.split():
            yield _one(name, partial(_made, name), normal((1, *shape)))
    yield _one("raft_small", _Flow, normal((1, 3, 128, 128), (1, 3, 128, 128)))


def _one(name: str, make: Callable[[], nn.Module], inputs: Any) -> Architecture:
    return Architecture(f"torchvision/{name}", "torchvision", make, inputs)
