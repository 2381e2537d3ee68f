#!/usr/bin/env bash
# torch.distributed.pipelining, torch 2.15.0: the first step of a schedule.
#
# Guess: a step with 4 micro-batches runs each layer and the loss 4 times, the first step, too.
# Seen: the first step runs all of them once more, with gradients, to learn the shapes. The first stage
# gets the first micro-batch, later ones get memory that nobody has written to, and the loss gets what
# comes of it. Random numbers and buffers are put back. What a layer or a loss keeps in Python is not:
# a mean of the loss that it counts itself has one value too many, of numbers that mean nothing.
# Who is hit: whoever counts, collects metrics or checks values in a layer or a loss.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 numpy==2.3.5

cat >"$folder/first.py" <<'PYTHON'
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

RANKS, CHUNKS = 2, 4


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("runs", torch.zeros(()))
        self.taken = []

    def forward(self, x):
        self.taken.append(x.detach().clone())
        self.runs += 1
        return self.linear(x)


def train(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    for kind in [ScheduleGPipe, Schedule1F1B]:
        torch.manual_seed(0)
        layers = [Layer() for _ in range(RANKS)]
        mine, losses = layers[rank], []
        data, target = torch.randn(8, 4), torch.randn(8, 4)

        def loss(output, target):
            losses.append(nn.functional.mse_loss(output, target))
            return losses[-1]

        schedule = kind(PipelineStage(mine, rank, RANKS, torch.device("cpu")), CHUNKS, loss_fn=loss)
        with torch.no_grad():
            whole = data if rank == 0 else layers[0].linear(data)
        for step in ["first", "second"]:
            mine.taken, losses[:] = [], []
            schedule.step(data) if rank == 0 else schedule.step(target=target)
            is_of_data = [any(torch.allclose(taken, rows) for rows in whole.chunk(CHUNKS)) for taken in mine.taken]
            for turn in range(RANKS):
                if turn == rank:
                    runs = f"layer {len(mine.taken)} times ({sum(is_of_data)} with rows of the data)"
                    about = f"{kind.__name__}, {step} step, stage {rank}: {runs}, its buffer counts {mine.runs:.0f}"
                    print(about + (f", loss {len(losses)} times" if rank == RANKS - 1 else ""), flush=True)
                dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    mp.spawn(train, args=(sys.argv[1],), nprocs=RANKS)
PYTHON
"$folder/env/bin/python" "$folder/first.py" "$folder/store" 2>/dev/null | tee "$folder/out"
diff - "$folder/out" <<'TEXT' || { echo "changed"; exit 1; }
ScheduleGPipe, first step, stage 0: layer 5 times (5 with rows of the data), its buffer counts 4
ScheduleGPipe, first step, stage 1: layer 5 times (4 with rows of the data), its buffer counts 4, loss 5 times
ScheduleGPipe, second step, stage 0: layer 4 times (4 with rows of the data), its buffer counts 8
ScheduleGPipe, second step, stage 1: layer 4 times (4 with rows of the data), its buffer counts 8, loss 4 times
Schedule1F1B, first step, stage 0: layer 5 times (5 with rows of the data), its buffer counts 4
Schedule1F1B, first step, stage 1: layer 5 times (4 with rows of the data), its buffer counts 4, loss 5 times
Schedule1F1B, second step, stage 0: layer 4 times (4 with rows of the data), its buffer counts 8
Schedule1F1B, second step, stage 1: layer 4 times (4 with rows of the data), its buffer counts 8, loss 4 times
TEXT
echo "as found: the first step runs the layers and the loss once more, later stages on unwritten memory"
