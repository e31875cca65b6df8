"""Weights and batch-norm statistics like those of trained networks, from a seed.

Weights are He-initialised (He et al. 2015, arXiv:1502.01852), norms get random affine parameters, and the running
statistics are measured on structured inputs. So activations keep their scale through any depth, every channel has a
range of its own, and ReLU6 and hardswish work on both sides of their bends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def initialise(model: nn.Module, generator: Generator) -> None:
    """Draws every parameter of `model`, in place; float32 on the CPU."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _ConvNd):
                draw_weight(module.weight, module.bias, math.sqrt(2 / fan_in(module)), generator)
            elif isinstance(module, nn.Linear):
                # No factor of 2 for a ReLU before it: most of the zoo's follow a mean or a layer norm.
                draw_weight(module.weight, module.bias, math.sqrt(1 / module.in_features), generator)
            elif isinstance(module, _BatchNorm | nn.LayerNorm):
                module.weight.normal_(0.0, 0.35, generator=generator).exp_()
                module.bias.normal_(0.0, 0.3, generator=generator)
            else:
                # Embeddings, class tokens, positions.
                for parameter in module.parameters(recurse=False):
                    parameter.normal_(0.0, 0.3, generator=generator)


def fan_in(conv: _ConvNd) -> float:
    """Products summed into one output of `conv`, border aside; their mean where a transposed stride varies them."""
    products = conv.in_channels // conv.groups * math.prod(conv.kernel_size)
    return products / math.prod(conv.stride) if isinstance(conv, _ConvTransposeNd) else products


def draw_weight(weight: Tensor, bias: Tensor | None, deviation: float, generator: Generator) -> None:
    """Normal weights of that deviation, and small biases where there are any."""
    weight.normal_(0.0, deviation, generator=generator)
    if bias is not None:
        bias.normal_(0.0, 0.1, generator=generator)


def measure_batch_norm(model: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Sets the running statistics of every batch norm to those of all batches together; leaves the model in eval mode.

    Each layer is normalised by its own batch while the layers behind it are measured: one sweep does, at any depth.
    The batches count alike and may differ in resolution: the variance includes that of their means.
    """
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in norms]
    for norm in norms:
        norm.momentum = 1.0  # keep the last batch only
        norm.train()
    with torch.no_grad():
        for batch in batches if norms else ():
            model(*batch)
            for norm, moments in zip(norms, seen, strict=True):
                mean, variance = running_statistics(norm)
                moments.append((mean.clone(), variance.clone()))
    for norm, momentum, moments in zip(norms, momenta, seen, strict=True):
        means, variances = (torch.stack(column) for column in zip(*moments, strict=True))
        mean, variance = running_statistics(norm)
        mean.copy_(means.mean(0))
        variance.copy_(variances.mean(0) + means.var(0, correction=0))
        norm.momentum = momentum
    model.eval()


def running_statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The buffers themselves, mean and variance (channels,)."""
    return norm.get_buffer("running_mean"), norm.get_buffer("running_var")
