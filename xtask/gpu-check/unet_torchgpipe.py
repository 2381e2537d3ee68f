"""Measures torchgpipe's benchmark on one GPU, in the same way as `gpu-check` measures this library:
U-Net(5, 5, 64), one partition, every micro-batch checkpointed.

Prints a line of JSON: images per second, and the peak memory in MiB."""

import json
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F
from torchgpipe import GPipe
from torchgpipe.skip import Namespace, pop, skippable, stash

DEPTH, CONVOLUTIONS, CHANNELS, IMAGE, CHUNKS = 5, 5, 64, 192, 2


@skippable(stash=["skip"])
class Stash(nn.Module):
    def forward(self, x):
        yield stash("skip", x)
        return x


@skippable(pop=["skip"])
class PopCat(nn.Module):
    def forward(self, x):
        skip = yield pop("skip")
        bottom, right = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        return torch.cat([F.pad(x, (0, right, 0, bottom)), skip], dim=1)


def cell(inputs, middle, outputs):
    layers = []
    for unit in range(CONVOLUTIONS):
        source = inputs if unit == 0 else middle
        target = outputs if unit + 1 == CONVOLUTIONS else middle
        layers += [
            nn.Conv2d(source, target, 3, padding=1, bias=False),
            nn.Dropout2d(0.1),
            nn.InstanceNorm2d(target),
            nn.LeakyReLU(),
        ]
    return layers


def unet():
    skips = [Namespace() for _ in range(DEPTH)]
    layers = []
    for level in range(DEPTH):
        outputs = CHANNELS << level
        inputs = 3 if level == 0 else outputs // 2
        layers += cell(inputs, outputs, outputs) + [Stash().isolate(skips[level]), nn.MaxPool2d(2)]
    inner = CHANNELS << (DEPTH - 1)
    layers += cell(inner, inner * 2, inner)
    for level in reversed(range(DEPTH)):
        outer = CHANNELS << level
        layers += [nn.Upsample(scale_factor=2), PopCat().isolate(skips[level])] + cell(outer * 2, outer // 2, outer // 2)
    layers.append(nn.Conv2d(CHANNELS // 2, 1, 1, bias=False))
    return nn.Sequential(*layers)


def main(batch, measurements):
    device = torch.device("cuda:0")
    layers = unet()
    model = GPipe(layers, [len(layers)], devices=[device], chunks=CHUNKS, checkpoint="always")
    x = torch.rand(batch, 3, IMAGE, IMAGE, device=device)
    y = torch.ones(batch, 1, IMAGE, IMAGE, device=device)
    torch.cuda.reset_peak_memory_stats()
    times = []
    for number in range(measurements + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        F.binary_cross_entropy_with_logits(model(x), y).backward()
        model.zero_grad()
        torch.cuda.synchronize()
        if number >= 3:
            times.append(time.perf_counter() - start)
    print(json.dumps({
        "images_per_second": batch / statistics.median(times),
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20,
    }))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
