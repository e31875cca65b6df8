"""Networks of the kinds that 8 bits are hard on, made here: a data folder for `benchmarks/accuracy.py` without data.

    python benchmarks/accuracy.py --data benchmarks/kinds

    encoder       transformer, residual stream with two channels 30 times larger, padding masked by -1e4; not trained
    segmentation  PReLU, concats, dilated branches
    depthwise     depthwise layers with batch norm and ReLU6

All but the encoder are trained on drawn shapes when they are loaded, a minute each on one core. Weights and data depend
on nothing but seeds (and, in their last bits, on the machine).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

CASES = ("encoder", "segmentation", "depthwise")
CALIBRATION, EVALUATION, TRAINING = 96, 400, 640
CLASSES = 5


@dataclass(frozen=True)
class Case:
    """As `benchmarks.accuracy_cases.Case` says; without labels it is judged by the cosine."""

    name: str
    model: nn.Module
    calibration: Tensor | tuple[Tensor, ...]
    inputs: Tensor | tuple[Tensor, ...]
    labels: Tensor | None


def load(name: str) -> Case:
    """A case by its name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "encoder":
            return Case(name, outlying(Encoder().eval()), sentences(CALIBRATION, 1), sentences(EVALUATION, 2), None)
        is_map = name == "segmentation"
        model = Segmentation() if is_map else Depthwise()
        train(model, *shapes(TRAINING, 0, is_map))
        inputs, labels = shapes(EVALUATION, 2, is_map)
        return Case(name, model.eval(), shapes(CALIBRATION, 1, is_map)[0], inputs, labels)


class Block(nn.Module):
    """A layer of a transformer, norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(N, T, C) and a mask that is added to the scores."""
        size, length, width = x.shape
        read = self.read(self.before(x)).view(size, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = read[0] @ read[1].transpose(-1, -2) / (width // self.heads) ** 0.5 + mask
        x = x + self.out((scores.softmax(-1) @ read[2]).transpose(1, 2).reshape(size, length, width))
        return x + self.down(F.gelu(self.up(self.between(x))))


class Encoder(nn.Module):
    """Sentences of token ids, with 0 where a sentence has ended, to the mean of their tokens' vectors."""

    def __init__(self, width: int = 96, heads: int = 4, depth: int = 4, vocabulary: int = 500) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.blocks, self.last = nn.ModuleList(Block(width, heads) for _ in range(depth)), nn.LayerNorm(width)
        for weight in self.parameters():
            if weight.ndim == 2:
                weight.data *= 1.5

    def forward(self, ids: Tensor, keep: Tensor) -> Tensor:
        """Ids (N, T), 1 for what is a token and 0 for padding; (N, C)."""
        x = self.words(ids) + self.places.weight[: ids.shape[1]]
        mask = (1.0 - keep[:, None, None, :]) * -1e4
        for block in self.blocks:
            x = block(x, mask)
        found: Tensor = (self.last(x) * keep[:, :, None]).sum(1) / keep.sum(1, keepdim=True)
        return found


@torch.no_grad()
def outlying(net: Encoder, channels: tuple[int, ...] = (5, 17), factor: float = 30.0) -> Encoder:
    """Whatever writes two channels of the residual stream times `factor`, the norms that read them divided."""
    for channel in channels:
        net.words.weight[:, channel] *= factor
        net.places.weight[:, channel] *= factor
        net.last.weight[channel] /= factor
        for block in net.blocks:
            for writer in (block.out, block.down):
                writer.weight[channel] *= factor
                writer.bias[channel] *= factor
            for norm in (block.before, block.between):
                norm.weight[channel] /= factor
    return net


def sentences(count: int, seed: int, length: int = 24) -> tuple[Tensor, Tensor]:
    """Ids, and which of them are tokens."""
    own = Generator().manual_seed(seed)
    ends = torch.randint(6, length + 1, (count, 1), generator=own)
    keep = (torch.arange(length)[None] < ends).float()
    return torch.randint(1, 500, (count, length), generator=own) * keep.long(), keep


def conv(inputs: int, outputs: int, size: int, *, groups: int = 1, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Without a bias, and as large as what it reads."""
    padding = dilation * (size // 2)
    return nn.Conv2d(inputs, outputs, size, stride, padding, dilation, groups, bias=False)


class Branches(nn.Module):
    """Dilated branches that are added up one after the other, joined, and added to what they read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        quarter = width // 4
        self.reduce = conv(width, quarter, 1)
        self.dilated = nn.ModuleList(conv(quarter, quarter, 3, dilation=step) for step in (1, 2, 4, 8))
        self.norm, self.act = nn.BatchNorm2d(width), nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), as it was."""
        found = [branch(self.reduce(x)) for branch in self.dilated]
        third = found[1] + found[2]
        joined = torch.cat([found[0], found[1], third, third + found[3]], 1)
        y: Tensor = self.act(self.norm(x + joined))
        return y


class Segmentation(nn.Module):
    """Images to classes of their pixels, by what is seen at half, and at a quarter of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = conv(3, 13, 3, stride=2), nn.Sequential(nn.BatchNorm2d(16), nn.PReLU(16))
        self.fine = nn.Sequential(*(Branches(16) for _ in range(2)))
        self.deeper, self.second = conv(32, 32, 3, stride=2), nn.Sequential(nn.BatchNorm2d(64), nn.PReLU(64))
        self.coarse = nn.Sequential(*(Branches(64) for _ in range(3)))
        self.up, self.last = nn.ConvTranspose2d(64, 32, 2, 2), nn.Conv2d(64, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, classes, H, W)."""
        fine = self.first(torch.cat([self.stem(x), F.avg_pool2d(x, 2)], 1))
        fine = torch.cat([fine, self.fine(fine)], 1)
        coarse = self.coarse(self.second(torch.cat([self.deeper(fine), F.max_pool2d(fine, 2)], 1)))
        scores = self.last(torch.cat([F.relu(self.up(coarse)), fine], 1))
        return F.interpolate(scores, scale_factor=2, mode="bilinear")


class Depthwise(nn.Module):
    """Inverted bottlenecks, which widen, filter every channel by itself, and narrow."""

    def __init__(self, width: int = 24, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU6())
        self.blocks = nn.ModuleList(self._block(width, 4 * width) for _ in range(depth))
        self.head = nn.Linear(width, CLASSES - 1)

    def _block(self, width: int, wide: int) -> nn.Module:
        up = [conv(width, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6()]
        each = [conv(wide, wide, 3, groups=wide), nn.BatchNorm2d(wide), nn.ReLU6()]
        return nn.Sequential(*up, *each, conv(wide, width, 1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, classes)."""
        x = self.stem(x)
        for place, block in enumerate(self.blocks):
            x = x + block(x) if place % 2 else F.max_pool2d(block(x) + x, 2)
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def shapes(count: int, seed: int, is_map: bool, size: int = 48) -> tuple[Tensor, Tensor]:
    """Images of discs, squares, diamonds and rings on waves; the class of each pixel (0: none), or of the one shape."""
    own = Generator().manual_seed(seed)
    down, right = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    images, labels = torch.empty(count, 3, size, size), torch.zeros(count, size, size, dtype=torch.long)
    kinds = torch.randint(1, CLASSES, (count, 3 if is_map else 1), generator=own)
    for image, label, several in zip(images, labels, kinds, strict=True):
        waves = torch.sin(right * (0.1 + 0.3 * torch.rand(1, generator=own)) + 0.3 * down)
        image[:] = 0.2 + 0.6 * torch.rand(3, 1, 1, generator=own) + 0.15 * waves
        for kind in several.tolist():
            across, along, reach = (torch.rand(3, generator=own) * torch.tensor([size, size, 10.0])).tolist()
            x, y, reach = (right - across).abs(), (down - along).abs(), reach + 6
            disc = x * x + y * y < reach * reach
            ring = disc & (x * x + y * y > (0.6 * reach) ** 2)
            inside: Tensor = (disc, (x < reach) & (y < reach), x + y < reach, ring)[kind - 1]
            image[:] = torch.where(inside, torch.rand(3, 1, 1, generator=own) + 0.1 * waves, image)
            label[inside] = kind
    images += 0.1 * torch.randn(images.shape, generator=own)
    return images, labels if is_map else kinds[:, 0] - 1


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int = 12, batch: int = 16) -> None:
    """By AdamW with one cycle of the rate."""
    steps = -(-len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * steps)
    loss: Callable[[Tensor, Tensor], Tensor] = nn.CrossEntropyLoss()
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            loss(model(images[part]), labels[part]).backward()
            optimizer.step()
            schedule.step()
