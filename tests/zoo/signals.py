"""Random inputs with the structure of real ones: images have shades and edges, signals a period, texts an end.

White noise would be averaged away by the first convolutions and leave ranges that no real calibration meets. Each
function returns a maker: (batch, generator) -> the network's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

Inputs = Callable[[int, Generator], tuple[Tensor, ...]]


def smooth_field(batch: int, channels: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """Octaves of noise, each half as strong as the coarser one before: (batch, channels, *size), about unit scale.

    Their cells count in pixels, so that a small image is a crop of a large one and has its local statistics.
    """
    field = torch.zeros(batch, channels, *size)
    for octave, cell in enumerate((64, 32, 16, 8, 4)):
        coarse = torch.randn(batch, channels, *(1 + -(-side // cell) for side in size), generator=generator)
        fine = interpolate(coarse, scale_factor=cell, mode="bilinear", align_corners=False)
        field += 0.5**octave * fine[:, :, cell // 2 : cell // 2 + size[0], cell // 2 : cell // 2 + size[1]]
    return field


def images(channels: int, height: int, width: int) -> Inputs:
    """Images (N, channels, height, width) as after the usual normalisation: about zero mean and unit deviation."""

    def make(batch: int, generator: Generator) -> tuple[Tensor, ...]:
        size = (height, width)
        shade = smooth_field(batch, channels, size, generator) + smooth_field(batch, 1, size, generator)
        edges = torch.sign(smooth_field(batch, 1, size, generator))
        tint = torch.randn(batch, channels, 1, 1, generator=generator)
        grain = torch.randn(batch, channels, height, width, generator=generator)
        return (0.4 * shade + 0.5 * edges * (1 + 0.3 * tint) + 0.4 * tint + 0.05 * grain,)

    return make


def windows(frames: int, bins: int) -> Inputs:
    """Log-mel windows (N, frames * bins), flattened frame by frame: louder at low frequencies."""
    spectrum = images(1, frames, bins)

    def make(batch: int, generator: Generator) -> tuple[Tensor, ...]:
        (field,) = spectrum(batch, generator)
        return ((field + torch.linspace(1.5, -1.5, bins)).flatten(1),)

    return make


def waves(channels: int, length: int) -> Inputs:
    """Signals (N, channels, length): four sines, a train of pulses and noise."""

    def make(batch: int, generator: Generator) -> tuple[Tensor, ...]:
        time = torch.arange(length, dtype=torch.float32)

        def draw(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(batch, channels, 4, 1, generator=generator)

        phase = draw(0.0, 2 * math.pi)
        sines = (draw(0.1, 0.6) * torch.sin(2 * math.pi * time / draw(16.0, 256.0) + phase)).sum(2)
        beat = torch.cos(math.pi * time / draw(40.0, 90.0)[:, :, 0] + phase[:, :, 0])
        noise = torch.randn(batch, channels, length, generator=generator)
        return (sines + 2.5 * beat**64 + 0.05 * noise,)

    return make


def tokens(length: int, vocabulary: int) -> Inputs:
    """Token ids and mask, int64 (N, length) each: texts of half to full length, padded at the end with id 0."""

    def make(batch: int, generator: Generator) -> tuple[Tensor, ...]:
        ids = torch.randint(1, vocabulary, (batch, length), generator=generator)
        lengths = torch.randint(length // 2, length + 1, (batch, 1), generator=generator)
        mask = (torch.arange(length) < lengths).to(torch.int64)
        return ids * mask, mask

    return make


def hidden_states(length: int, width: int) -> Inputs:
    """Hidden states (N, length, width) as behind a layer norm, a few channels six times wider, as in trained nets."""

    def make(batch: int, generator: Generator) -> tuple[Tensor, ...]:
        topic = torch.randn(batch, 1, width, generator=generator)
        token = torch.randn(batch, length, width, generator=generator)
        states = torch.nn.functional.layer_norm(0.6 * topic + 0.8 * token, (width,))
        wide = torch.where(torch.arange(width) % 97 == 41, 6.0, 1.0)
        return (states * wide,)

    return make
