#!/usr/bin/env bash
# torch.distributed.pipelining, torch 2.15.0: checkpointed layers, and functions of one's own, where the
# schedule splits the backward.
#
# Guess: a checkpointed layer is recomputed once for each micro-batch, and the backward of a
# `torch.autograd.Function` runs once, as under the other schedules.
# Seen: under InterleavedZeroBubble, both happen twice for each micro-batch, on all stages but the
# first: once for the gradients of the inputs, and once for those of the weights. `needs_input_grad`
# says both times that both are wanted, so such a function computes all of it twice. The gradients are
# right.
# Who is hit: whoever trains with checkpoints, or with fused layers, under zero-bubble: an iteration
# takes longer than under 1F1B, where it should take less.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 numpy==2.3.5

cat >"$folder/twice.py" <<'PYTHON'
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.pipelining import (
    PipelineStage,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)
from torch.utils.checkpoint import checkpoint

RANKS, STAGES, CHUNKS = 2, 4, 4


class Product(torch.autograd.Function):
    backwards = 0
    wanted = set()

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, gradient):
        Product.backwards += 1
        Product.wanted.add(ctx.needs_input_grad)
        x, weight = ctx.saved_tensors
        return gradient @ weight.t(), x.t() @ gradient


class Layer(nn.Module):
    def __init__(self, is_checkpointed):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.is_checkpointed = is_checkpointed
        self.forwards = 0

    def inner(self, x):
        self.forwards += 1
        return torch.tanh(x @ self.weight)

    def forward(self, x):
        if self.is_checkpointed:
            return checkpoint(self.inner, x, use_reentrant=False)
        return torch.tanh(Product.apply(x, self.weight))


def steps(kind, rank, is_checkpointed):
    """What the second step runs on the last rank. The first one settles what is sent, too."""
    torch.manual_seed(0)
    layers = [Layer(is_checkpointed) for _ in range(STAGES)]
    mine = [rank, rank + RANKS]
    stages = [PipelineStage(layers[stage], stage, STAGES, torch.device("cpu")) for stage in mine]
    schedule = kind(stages, CHUNKS, loss_fn=nn.MSELoss())
    data, target = torch.randn(8, 4), torch.randn(8, 4)
    for _ in range(2):
        Product.backwards = 0
        for layer in layers:
            layer.forwards, layer.weight.grad = 0, None
        schedule.step(data) if rank == 0 else schedule.step(target=target)
    return [layers[stage].forwards for stage in mine], Product.backwards


def train(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    for kind in [ScheduleInterleaved1F1B, ScheduleInterleavedZeroBubble]:
        forwards, _ = steps(kind, rank, True)
        _, backwards = steps(kind, rank, False)
        if rank == RANKS - 1:
            print(f"{kind.__name__}, {CHUNKS} micro-batches, 2 stages of the last rank")
            print(f"  a checkpointed layer ran {forwards} times")
            print(f"  a function's backward ran {backwards} times, and was asked for {Product.wanted}")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    mp.spawn(train, args=(sys.argv[1],), nprocs=RANKS)
PYTHON
"$folder/env/bin/python" "$folder/twice.py" "$folder/store" 2>/dev/null | tee "$folder/out"
diff - "$folder/out" <<'TEXT' || { echo "changed"; exit 1; }
ScheduleInterleaved1F1B, 4 micro-batches, 2 stages of the last rank
  a checkpointed layer ran [8, 8] times
  a function's backward ran 8 times, and was asked for {(True, True)}
ScheduleInterleavedZeroBubble, 4 micro-batches, 2 stages of the last rank
  a checkpointed layer ran [12, 12] times
  a function's backward ran 16 times, and was asked for {(True, True)}
TEXT
echo "as found: a split backward recomputes checkpoints twice, and runs a function's backward twice"
