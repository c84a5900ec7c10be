"""NASNet-A (arXiv 1707.07012, figures 2 and 4), for table 4: a structure to count, not to train."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NasNetA(nn.Module):
    """A stem, two reduction cells, and three stages of normal cells with a reduction cell before the second and third.

    With 4 cells of 44 filters this is the network for mobile phones; 6 of 168 and a stem of 96 make the large one,
    timm's nasnetalarge. In a cell everything has the same number of channels; its outputs are concatenated.
    """

    def __init__(self, cells: int, filters: int, stem: int, classes: int) -> None:
        """Build it.

        Args:
            cells: Normal cells in a stage.
            filters: Channels in a cell of the first stage; twice as many in each stage after it.
            stem: Channels of the first convolution.
            classes: Number of classes.
        """
        super().__init__()
        # Unlike all others, the first convolution is not padded.
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, 2, bias=False), nn.BatchNorm2d(stem))
        plan = [(filters // 4, True), (filters // 2, True), *[(filters, False)] * cells]
        for count in (2 * filters, 4 * filters):
            plan += [(count, True), *[(count, False)] * cells]
        self.cells = nn.ModuleList()
        previous, current, larger = 0, stem, False
        for count, reduces in plan:
            self.cells.append(_Cell(previous, current, count, reduces, larger))
            previous, current, larger = current, (4 if reduces else 6) * count, reduces
        self.classifier = nn.Linear(current, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        previous = current = self.stem(x)
        for cell in self.cells:
            previous, current = current, cell(previous, current)
        logits: Tensor = self.classifier(F.relu(current).mean((2, 3)))
        return logits


class _Cell(nn.Module):
    """Combines the outputs of the two cells before it."""

    def __init__(self, previous: int, current: int, count: int, reduces: bool, larger: bool) -> None:
        """Build it.

        Args:
            previous: Channels of the cell before the last; 0 if there is none, and the last one is used twice.
            current: Channels of the last cell.
            count: Channels in here.
            reduces: Whether the height and the width are halved.
            larger: Whether the cell before the last has twice the height and width of the last one.
        """
        super().__init__()
        self.reduces = reduces
        self.current = nn.Sequential(nn.ReLU(), nn.Conv2d(current, count, 1, bias=False), nn.BatchNorm2d(count))
        self.previous: nn.Module = nn.Identity()
        other = count
        if not previous:
            other = current
        elif larger:
            self.previous = _Halve(previous, count)
        elif previous != count:
            self.previous = nn.Sequential(nn.ReLU(), nn.Conv2d(previous, count, 1, bias=False), nn.BatchNorm2d(count))
        # Inputs and kernels of the separable convolutions; in a reduction cell the first four have stride 2.
        inputs = (count, other, other, other, count) if reduces else (count,) * 5
        kernels = (5, 7, 7, 5, 3) if reduces else (5, 3, 5, 3, 3)
        strides = (2, 2, 2, 2, 1) if reduces else (1,) * 5
        self.branches = nn.ModuleList(
            _separable(channels, count, kernel, stride)
            for channels, kernel, stride in zip(inputs, kernels, strides, strict=True)
        )

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        before, now = self.previous(previous), self.current(current)
        branches = list(self.branches)
        first = branches[0](now) + branches[1](before)
        if not self.reduces:
            return torch.cat(
                (
                    before,
                    first,
                    branches[2](before) + branches[3](before),
                    F.avg_pool2d(now, 3, 1, padding=1) + before,
                    2 * F.avg_pool2d(before, 3, 1, padding=1),
                    branches[4](now) + now,
                ),
                1,
            )
        pooled = F.max_pool2d(now, 3, 2, padding=1)
        second = pooled + branches[2](before)
        return torch.cat(
            (
                second,
                F.avg_pool2d(now, 3, 2, padding=1) + branches[3](before),
                F.avg_pool2d(first, 3, 1, padding=1) + second,
                branches[4](first) + pooled,
            ),
            1,
        )


class _Halve(nn.Module):
    """Halves height and width: two 1x1 convolutions on every other pixel, one of them shifted by a pixel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv2d(in_channels, out_channels // 2, 1, 2, bias=False) for _ in range(2))
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        shifted = F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
        out: Tensor = self.norm(torch.cat((self.paths[0](x), self.paths[1](shifted)), 1))
        return out


def _separable(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    """A separable convolution, applied twice."""
    layers = nn.Sequential()
    for channels, step in ((in_channels, stride), (out_channels, 1)):
        layers.extend(
            [
                nn.ReLU(),
                nn.Conv2d(channels, channels, kernel, step, kernel // 2, groups=channels, bias=False),
                nn.Conv2d(channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            ]
        )
    return layers
