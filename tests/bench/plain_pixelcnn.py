"""PixelCNN++ as one writes it plainly in PyTorch, for the benchmark of training only.

The structure of the public ports of openai/pixel-cnn: padded convolutions shifted down and
right, torch's own weight_norm, activations computed wherever they are read, skips joined by
concatenation. Same widths, depths and condition as ours; no masks, so no wasted products.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


def concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


class ShiftedConv(nn.Module):
    """A convolution that sees rows up to its own; `right` too: columns up to its own."""

    def __init__(self, num_in: int, num_out: int, *, right: bool, stride: int = 1) -> None:
        super().__init__()
        width = 2 if right else 3
        self.pad = (1, 0, 1, 0) if right else (1, 1, 1, 0)
        self.conv = weight_norm(nn.Conv2d(num_in, num_out, (2, width), stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.pad))


class Upsampled(nn.Module):
    def __init__(self, filters: int, *, right: bool) -> None:
        super().__init__()
        width = 2 if right else 3
        self.crop = 0 if right else 1
        self.conv = weight_norm(nn.ConvTranspose2d(filters, filters, (2, width), stride=2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y[:, :, : 2 * x.shape[2], self.crop : self.crop + 2 * x.shape[3]]


class Block(nn.Module):
    def __init__(self, filters: int, *, right: bool, num_skips: int, num_codes: int) -> None:
        super().__init__()
        self.conv1 = ShiftedConv(2 * filters, filters, right=right)
        self.skip = None
        if num_skips:
            self.skip = weight_norm(nn.Conv2d(2 * num_skips * filters, filters, 1))
        self.dropout = nn.Dropout(0.5)
        self.conv2 = ShiftedConv(2 * filters, 2 * filters, right=right)
        self.project = nn.Linear(num_codes, 2 * filters)

    def forward(self, x: Tensor, code: Tensor, skip: Tensor | None = None) -> Tensor:
        t = self.conv1(concat_elu(x))
        if self.skip is not None:
            t = t + self.skip(concat_elu(skip))
        t = self.conv2(self.dropout(concat_elu(t))) + self.project(code)[:, :, None, None]
        a, b = t.chunk(2, dim=1)
        return x + a * torch.sigmoid(b)


class PlainPixelCNN(nn.Module):
    def __init__(
        self,
        *,
        num_classes: int,
        num_resnet: int,
        num_hierarchies: int,
        num_filters: int,
        num_logistic_mix: int,
    ) -> None:
        super().__init__()
        n, levels = num_filters, num_hierarchies
        self.mixtures = num_logistic_mix
        self.embed = nn.Embedding(num_classes, 64)
        self.first = nn.ModuleList(
            weight_norm(nn.Conv2d(2, n, size)) for size in ((2, 3), (1, 3), (2, 1))
        )

        def pairs(count: int, extra: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.ModuleList(
                    Block(n, right=right, num_skips=extra + right, num_codes=64)
                    for right in (False, True)
                )
                for _ in range(count)
            )

        self.down = nn.ModuleList(pairs(num_resnet, 0) for _ in range(levels))
        self.up = nn.ModuleList(pairs(num_resnet + (i > 0), 1) for i in range(levels))
        self.halve, self.enlarge = (
            nn.ModuleList(
                nn.ModuleList(kind(right) for right in (False, True)) for _ in range(levels - 1)
            )
            for kind in (
                lambda right: ShiftedConv(n, n, right=right, stride=2),
                lambda right: Upsampled(n, right=right),
            )
        )
        self.out = weight_norm(nn.Conv2d(n, 3 * num_logistic_mix, 1))

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        x = image.float() / 127.5 - 1
        code = self.embed(label)
        padded = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
        vertical = self.first[0](F.pad(padded, (1, 1, 2, 0)))[:, :, :-1]
        up = self.first[1](F.pad(padded, (1, 1, 1, 0)))[:, :, :-1]
        left = self.first[2](F.pad(padded, (1, 0, 1, 0)))[:, :, :, :-1]
        v, h = vertical, up + left
        saved = [(v, h)]
        for level, blocks in enumerate(self.down):
            for down, right in blocks:
                v = down(v, code)
                h = right(h, code, v)
                saved.append((v, h))
            if level < len(self.halve):
                v, h = (half(s) for half, s in zip(self.halve[level], (v, h), strict=True))
                saved.append((v, h))
        v, h = saved.pop()
        for level, blocks in enumerate(self.up):
            for down, right in blocks:
                skip_v, skip_h = saved.pop()
                v = down(v, code, skip_v)
                h = right(h, code, torch.cat([v, skip_h], dim=1))
            if level < len(self.enlarge):
                v, h = (large(s) for large, s in zip(self.enlarge[level], (v, h), strict=True))
        return log_prob(self.out(F.elu(h)), x, self.mixtures)


def log_prob(params: Tensor, x: Tensor, mixtures: int) -> Tensor:
    """Return nats an image, by the formula of openai/pixel-cnn."""
    logits, means, log_scales = params.split(mixtures, dim=1)
    log_scales = log_scales.clamp_min(-7)
    centered, inverse = x - means, torch.exp(-log_scales)
    plus, minus = inverse * (centered + 1 / 255), inverse * (centered - 1 / 255)
    delta = torch.sigmoid(plus) - torch.sigmoid(minus)
    middle = inverse * centered
    density = middle - log_scales - 2 * F.softplus(middle) - 4.8442  # log(127.5)
    inner = torch.where(delta > 1e-5, torch.log(delta.clamp_min(1e-12)), density)
    low, high = plus - F.softplus(plus), -F.softplus(minus)
    found = torch.where(x < -0.999, low, torch.where(x > 0.999, high, inner))
    return torch.logsumexp(found + F.log_softmax(logits, 1), 1).sum((1, 2))
