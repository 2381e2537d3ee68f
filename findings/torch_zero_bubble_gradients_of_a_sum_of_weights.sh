#!/usr/bin/env bash
# torch.distributed.pipelining, torch 2.15.0: a layer that uses the sum of two of its parameters, where
# the schedule splits the backward.
#
# Guess: the gradients are those of plain PyTorch, as under the other schedules.
# Seen: under InterleavedZeroBubble and ZBVZeroBubble they are wrong on all stages but the first, by
# half of their size and more, without an error. The first micro-batch makes one tensor the `grad` of
# both parameters, and each later one is added to it twice. Under Interleaved1F1B they are right.
# Who is hit: whoever trains a weight plus a change of it (adapters), or the sum of two tables of one
# shape (positions and segments), under zero-bubble.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 numpy==2.3.5

cat >"$folder/sums.py" <<'PYTHON'
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
    ScheduleZBVZeroBubble,
)

RANKS, STAGES, CHUNKS = 2, 4, 4
OF_RANK = {
    ScheduleInterleaved1F1B: [(0, 2), (1, 3)],
    ScheduleInterleavedZeroBubble: [(0, 2), (1, 3)],
    ScheduleZBVZeroBubble: [(0, 3), (1, 2)],
}


class Adapted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4) * 0.5)
        self.change = nn.Parameter(torch.randn(4, 4) * 0.1)

    def forward(self, x):
        return torch.tanh(x @ (self.weight + self.change))


def train(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    for kind, of_rank in OF_RANK.items():
        torch.manual_seed(0)
        layers = [Adapted() for _ in range(STAGES)]
        data, target = torch.randn(8, 4), torch.randn(8, 4)
        nn.functional.mse_loss(nn.Sequential(*layers)(data), target).backward()
        plain = [layer.change.grad.clone() for layer in layers]
        for layer in layers:
            layer.weight.grad = layer.change.grad = None
        stages = [PipelineStage(layers[stage], stage, STAGES, torch.device("cpu")) for stage in of_rank[rank]]
        schedule = kind(stages, CHUNKS, loss_fn=nn.MSELoss())
        last = rank == next(number for number, stages in enumerate(of_rank) if STAGES - 1 in stages)
        schedule.step(*[data] * (rank == 0), **{"target": target} if last else {})
        mine = {}
        for stage in of_rank[rank]:
            layer = layers[stage]
            wrong_by = (layer.change.grad - plain[stage]).norm() / plain[stage].norm()
            is_one = layer.weight.grad.data_ptr() == layer.change.grad.data_ptr()
            verdict = "right" if wrong_by < 1e-5 else "wrong by half and more" if wrong_by > 0.5 else "wrong"
            mine[stage] = f"{verdict}, {'one tensor' if is_one else 'two tensors'}"
        all_ranks = [None] * RANKS
        dist.all_gather_object(all_ranks, mine)
        if rank == 0:
            print(f"{kind.__name__}:")
            for stage, verdict in sorted({**all_ranks[0], **all_ranks[1]}.items()):
                print(f"  stage {stage}: {verdict}")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    mp.spawn(train, args=(sys.argv[1],), nprocs=RANKS)
PYTHON
"$folder/env/bin/python" "$folder/sums.py" "$folder/store" 2>/dev/null | tee "$folder/out"
diff - "$folder/out" <<'TEXT' || { echo "changed"; exit 1; }
ScheduleInterleaved1F1B:
  stage 0: right, two tensors
  stage 1: right, two tensors
  stage 2: right, two tensors
  stage 3: right, two tensors
ScheduleInterleavedZeroBubble:
  stage 0: right, two tensors
  stage 1: wrong by half and more, one tensor
  stage 2: wrong by half and more, one tensor
  stage 3: wrong by half and more, one tensor
ScheduleZBVZeroBubble:
  stage 0: right, two tensors
  stage 1: wrong by half and more, one tensor
  stage 2: wrong by half and more, one tensor
  stage 3: wrong by half and more, one tensor
TEXT
echo "as found: under a split backward, the gradients of two parameters that are added are wrong"
