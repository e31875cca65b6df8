"""The model zoo: every network the project promises to carry through the whole road, in plain torch.

`build(name)` gives a network in eval mode with weights and statistics like a trained one's, `inputs(name, batch, seed)`
what to feed it; both depend on nothing but their arguments. Every network returns one float tensor, batch first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Generator, Tensor, nn

from tests.zoo.bert import Bert, BertEncoder
from tests.zoo.conv1d import ConvNet1d
from tests.zoo.deeplab import DeepLab
from tests.zoo.densenet import DenseNet
from tests.zoo.mlperf_tiny import Autoencoder, DsCnn, MobileNetV1, ResNet8
from tests.zoo.mobilenet_v2 import MobileNetV2
from tests.zoo.mobilenet_v3 import MobileNetV3Small
from tests.zoo.resnet import resnet18, resnet50
from tests.zoo.shufflenet import ShuffleNetV2
from tests.zoo.signals import Inputs, hidden_states, images, tokens, waves, windows
from tests.zoo.squeezenet import SqueezeNet
from tests.zoo.unet import UNet
from tests.zoo.vit import VisionTransformer
from tests.zoo.weights import initialise, measure_batch_norm

SMALL_CALIBRATION, FULL_CALIBRATION = 16, 4


@dataclass(frozen=True)
class Entry:
    """One network: `full` makes inputs of its published size, `small` the least that exercises every layer of it.

    The same weights serve both sizes. A `convolutional` network has no softmax, layer norm or embedding, so that its
    quantized graph must have no float island. Where depth only repeats what was there before, `shallow` makes the
    network with a few layers of each kind: the whole one is compiled, and compared, by the benchmarks.
    """

    name: str
    make: Callable[[], nn.Module]
    full: Inputs
    small: Inputs
    convolutional: bool = True
    shallow: Callable[[], nn.Module] | None = None


RGB_224, RGB_64 = images(3, 224, 224), images(3, 64, 64)

ZOO: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("resnet18", resnet18, RGB_224, RGB_64),
        Entry("resnet50", resnet50, RGB_224, RGB_64),
        Entry("mobilenet_v2", MobileNetV2, RGB_224, RGB_64),
        Entry("mobilenet_v3_small", MobileNetV3Small, RGB_224, RGB_64),
        Entry("squeezenet1_1", SqueezeNet, RGB_224, RGB_64),
        Entry("shufflenet_v2", ShuffleNetV2, RGB_224, RGB_64),
        Entry("densenet121", DenseNet, RGB_224, RGB_64, shallow=partial(DenseNet, (2, 3, 2, 2))),
        Entry("unet", UNet, images(3, 128, 128), images(3, 32, 48)),
        Entry("deeplab", DeepLab, images(3, 256, 256), images(3, 64, 96)),
        Entry("ds_cnn", DsCnn, images(1, 49, 10), images(1, 49, 10)),
        Entry("mobilenet_v1", MobileNetV1, images(3, 96, 96), images(3, 96, 96)),
        Entry("autoencoder", Autoencoder, windows(5, 128), windows(5, 128)),
        Entry("resnet8", ResNet8, images(3, 32, 32), images(3, 32, 32)),
        Entry("conv1d", ConvNet1d, waves(1, 2048), waves(1, 256)),
        Entry("vit_tiny", VisionTransformer, RGB_224, RGB_224, False, partial(VisionTransformer, depth=3)),
        Entry("bert", Bert, tokens(128, 30522), tokens(16, 30522), False, partial(Bert, depth=2)),
        Entry(
            "bert_embedded",
            BertEncoder,
            hidden_states(128, 384),
            hidden_states(16, 384),
            False,
            partial(BertEncoder, depth=2),
        ),
    )
}


def build(name: str, seed: int = 0, shallow: bool = False) -> nn.Module:
    """A fresh copy of the network `name`, in eval mode, float32; the same for the same seed. See `Entry.shallow`.

    Across machines the batch-norm statistics may differ in their last bits, so no golden file may hold them.
    Raises KeyError for a name that is not in ZOO.
    """
    return copy.deepcopy(_built(name, seed, shallow))


def inputs(name: str, batch: int = 1, seed: int = 0, small: bool = True) -> tuple[Tensor, ...]:
    """Inputs of the network `name`, `batch` samples; another seed gives other samples.

    Raises KeyError for a name that is not in ZOO.
    """
    entry = ZOO[name]
    make = entry.small if small else entry.full
    return make(batch, Generator().manual_seed(seed))


# The statistics cost more than the copy; tests ask for one network many times in a row.
@lru_cache(maxsize=2)
def _built(name: str, seed: int, shallow: bool) -> nn.Module:
    entry = ZOO[name]
    generator = Generator().manual_seed(seed)
    # The constructors draw from torch's global generator, which belongs to the caller.
    with torch.random.fork_rng(devices=[]):
        model = entry.shallow() if shallow and entry.shallow else entry.make()
    initialise(model, generator)
    # Both sizes: a map of 2x2 is all border, so that its statistics alone would not do for a large one.
    measure_batch_norm(model, [entry.small(SMALL_CALIBRATION, generator), entry.full(FULL_CALIBRATION, generator)])
    return model.eval()
