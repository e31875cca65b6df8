"""A network's weights in a file, so that every process works with the same ones even if the network draws its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from fxquant.tools.bench.networks import Network

_FILE = "weights.npz"


def keep(model: nn.Module, folder: Path) -> None:
    """Write parameters and buffers of `model`."""
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    np.savez(folder / _FILE, **state)


def restored(network: Network, folder: Path) -> nn.Module:
    """`network` with the weights that `keep` wrote into `folder`."""
    import torch

    model = network.build()
    with np.load(folder / _FILE, allow_pickle=False) as file:
        model.load_state_dict({name: torch.from_numpy(file[name]) for name in file.files})
    return model.eval()


def float_bytes(folder: Path) -> int:
    """Size of the weights in float."""
    return (folder / _FILE).stat().st_size
