"""The models of `xtask/programs/src/bin/bench/models`, made of torch's layers. Each is a list of
layers and its cuts.

Weights and data equal those of `values.rs`: both sides compute them with one formula, from a
parameter's name.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

WIDTH, HEADS, BLOCKS, CONTEXT, CHARACTERS = 128, 4, 8, 128, 64  # of the GPT
READERS, LENGTH = 12, 64  # of the decoder, and of the GPT with a mask; a memory has `args.width`


@dataclass
class Fixed:
    """What the layers read beside their input: a mask, and under its name what has a part for each
    micro-batch. Each stage has them, or the first one hands them on."""

    mask: torch.Tensor
    parts: dict
    handed: bool


@dataclass
class Task:
    """A model's layers in order, the number of layers in each stage, a mini-batch and its loss."""

    layers: OrderedDict
    balance: list
    input: torch.Tensor
    target: torch.Tensor
    loss: Callable
    fixed: Fixed | None = None


@dataclass
class Skips:
    """How a library makes skips: a layer that keeps its input under a name, and a layer that
    concatenates the kept value with its own input."""

    stash: Callable
    pop_concat: Callable


def uniform(name, shape):
    """Numbers between -1 and 1 that look random and differ for each name."""
    phase = sum(letter * place for place, letter in enumerate(name.encode(), 1)) % 1000
    waves = torch.arange(math.prod(shape), dtype=torch.float64) * 12.9898 + phase * math.pi
    waves = waves.sin() * 43758.5453
    return ((waves - waves.floor()) * 2 - 1).float().reshape(shape)


def set_weights(layers):
    """Sets all parameters of these layers to the numbers that they have in the other contenders."""
    for key, layer in layers.items():
        for name, parameter in layer.named_parameters(prefix=key):
            numbers = uniform(name.replace(".", "_"), parameter.shape)
            if parameter.dim() > 1:
                numbers *= math.sqrt(3 / math.prod(parameter.shape[1:]))
            elif name.endswith("weight"):
                numbers = numbers * 0.1 + 1
            else:
                numbers *= 0.1
            parameter.data.copy_(numbers)


def regression(layers, balance, input, output, fixed=None):
    return Task(layers, balance, uniform("input", input), uniform("target", output), functional.mse_loss, fixed)


# ---------------------------------------------------------------- stacks

class Dense(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.weight


def stack(args, layer):
    layers = OrderedDict((f"layers_{number}", layer()) for number in range(args.layers))
    shape = (args.rows, args.width)
    return regression(layers, [args.layers // args.stages] * args.stages, shape, shape)


# ---------------------------------------------------------------- U-Net(3, 2, 8)

def unit(key, inputs, outputs):
    """The layers of a unit. Dropout is off, because masks differ between any two libraries."""
    return [
        (key, nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)),
        (f"{key}_dropout", nn.Dropout2d(0.0)),
        (f"{key}_norm", nn.InstanceNorm2d(outputs)),
        (f"{key}_relu", nn.LeakyReLU(0.01)),
    ]


def cell(key, inputs, middle, outputs):
    return unit(f"{key}_0", inputs, middle) + unit(f"{key}_1", middle, outputs)


def unet(args, skips):
    def level(number, inputs, outputs):
        layers = cell(f"encode{number}", inputs, outputs, outputs)
        return layers + [(f"stash{number}", skips.stash(f"level{number}")), (f"shrink{number}", nn.MaxPool2d(2))]

    def up(number, inputs, outputs):
        layers = [(f"grow{number}", nn.Upsample(scale_factor=2)), (f"pop{number}", skips.pop_concat(f"level{number}"))]
        return layers + cell(f"decode{number}", inputs, outputs, outputs)

    first = level(0, 3, 8) + level(1, 8, 16)
    second = level(2, 16, 32) + cell("bottom", 32, 64, 32) + up(2, 64, 16) + up(1, 32, 8) + up(0, 16, 4)
    second.append(("segment", nn.Conv2d(4, 1, 1, bias=False)))
    balance = [len(first), len(second)] if args.stages == 2 else [len(first) + len(second)]
    side = args.width
    return regression(OrderedDict(first + second), balance, (args.rows, 3, side, side), (args.rows, 1, side, side))


# ---------------------------------------------------------------- GPT

class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(CHARACTERS, WIDTH)
        self.position = nn.Parameter(torch.zeros(CONTEXT, WIDTH))

    def forward(self, tokens):
        return self.token(tokens) + self.position


class Block(nn.Module):
    def __init__(self, recomputed=False):
        super().__init__()
        self.recomputed = recomputed
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attend = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        if self.recomputed:
            return checkpoint(self.block, x, use_reentrant=False)
        return self.block(x)

    def block(self, x):
        heads = self.attend(self.norm1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2) for part in heads)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2, 3))
        return x + self.narrow(functional.gelu(self.widen(self.norm2(x))))


def gpt(args):
    def blocks(name):
        return [(f"{name}_{number}", Block(number < args.recompute)) for number in range(BLOCKS // 2)]

    first = [("embed", Embed())] + blocks("early")
    second = blocks("late")
    second += [("norm", nn.LayerNorm(WIDTH)), ("head", nn.Linear(WIDTH, CHARACTERS))]
    balance = [len(first), len(second)] if args.stages == 2 else [len(first) + len(second)]

    def tokens(name):
        return ((uniform(name, (args.rows, CONTEXT)) + 1) * (CHARACTERS // 2)).long()

    def loss(output, target):
        return functional.cross_entropy(output.flatten(0, 1), target.flatten(0, 1))

    return Task(OrderedDict(first + second), balance, tokens("input"), tokens("target"), loss)


# ---------------------------------------------------------------- a decoder, and a GPT with a mask

class Reader(nn.Module):
    """A layer of a GPT that reads a mask, or of a decoder that reads a memory too."""

    def __init__(self, decodes):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.own_q, self.own_k, self.own_v, self.own_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        if decodes:
            self.norm2 = nn.LayerNorm(WIDTH)
            self.cross_q, self.cross_k, self.cross_v, self.cross_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm3 = nn.LayerNorm(WIDTH)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x, mask, memory=None):
        own = self.norm1(x)
        x = x + self.own_out(attend(self.own_q(own), self.own_k(own), self.own_v(own), mask))
        if memory is not None:
            q = self.cross_q(self.norm2(x))
            x = x + self.cross_out(attend(q, self.cross_k(memory), self.cross_v(memory)))
        return x + self.narrow(functional.gelu(self.widen(self.norm3(x))))


def attend(q, k, v, mask=None):
    q, k, v = (part.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2) for part in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2, 3)


class Own(nn.Module):
    """Makes the memory of a stage, or the one that is handed on."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, memory):
        return memory + self.offset


def readers(args, decodes, handed):
    stages = {2: ["early", "late"], 4: ["one", "two", "three", "four"]}[args.stages]
    count = READERS // args.stages
    parts = []
    for number, stage in enumerate(stages):
        name = "begin" if handed else f"{stage}_own"
        own = [(name, Own())] if decodes and (number == 0 or not handed) else []
        parts.append(own + [(f"{stage}_{place}", Reader(decodes)) for place in range(count)])
    parts[0].insert(0, ("first", nn.Linear(WIDTH, WIDTH)))
    parts[-1].append(("head", nn.Linear(WIDTH, WIDTH)))
    shape = (args.rows, LENGTH, WIDTH)
    memory = {"memory": uniform("memory", (args.rows, args.width, WIDTH))} if decodes else {}
    fixed = Fixed(torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(), memory, handed)
    layers = OrderedDict(layer for part in parts for layer in part)
    return regression(layers, [len(part) for part in parts], shape, shape, fixed)


def make(args, skips):
    """Makes the task, and sets its weights."""
    makers = {
        "mlp": lambda: stack(args, lambda: Dense(args.width, args.width)),
        "trivial": lambda: stack(args, lambda: Scale(args.width)),
        "unet": lambda: unet(args, skips),
        "gpt": lambda: gpt(args),
        "decoder-lent": lambda: readers(args, decodes=True, handed=True),
        "decoder-owned": lambda: readers(args, decodes=True, handed=False),
        "masked-gpt-lent": lambda: readers(args, decodes=False, handed=True),
        "masked-gpt-owned": lambda: readers(args, decodes=False, handed=False),
    }
    task = makers[args.model]()
    set_weights(task.layers)
    return task
