#!/usr/bin/env bash
# torch.distributed.pipelining, torch 2.15.0: `register_post_accumulate_grad_hook` under the schedules
# that split the backward.
#
# Guess: the hook runs each time that a parameter has got a gradient, under each schedule.
# Seen: under Interleaved1F1B it runs once for each micro-batch, on all stages. Under
# InterleavedZeroBubble and ZBVZeroBubble it runs on the first stage alone. On the other stages the
# gradients arrive in `grad`, equal to those of Interleaved1F1B, but the hook never runs, and nothing
# says so. Hooks by `register_hook` run on all stages.
# Who is hit: whoever steps the optimizer in this hook, as PyTorch's tutorial does to save memory: only
# the first stage is trained.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 numpy==2.3.5

cat >"$folder/hooks.py" <<'PYTHON'
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


def train(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    plain = [None] * STAGES
    for kind, of_rank in OF_RANK.items():
        torch.manual_seed(0)
        layers = [nn.Linear(4, 4) for _ in range(STAGES)]
        data, target = torch.randn(8, 4), torch.randn(8, 4)
        counts = [[0, 0] for _ in range(STAGES)]

        def counter(stage, which):
            def hook(_):
                counts[stage][which] += 1

            return hook

        for stage, layer in enumerate(layers):
            layer.weight.register_post_accumulate_grad_hook(counter(stage, 0))
            layer.weight.register_hook(counter(stage, 1))
        stages = [PipelineStage(layers[stage], stage, STAGES, torch.device("cpu")) for stage in of_rank[rank]]
        schedule = kind(stages, CHUNKS, loss_fn=nn.MSELoss())
        last = rank == next(number for number, stages in enumerate(of_rank) if STAGES - 1 in stages)
        schedule.step(*[data] * (rank == 0), **{"target": target} if last else {})
        mine = {stage: (counts[stage], layers[stage].weight.grad) for stage in of_rank[rank]}
        all_ranks = [None] * RANKS
        dist.all_gather_object(all_ranks, mine)
        by_stage = dict(sorted({**all_ranks[0], **all_ranks[1]}.items()))
        if rank == 0:
            gradients = [gradient for _, gradient in by_stage.values()]
            plain = gradients if kind is ScheduleInterleaved1F1B else plain
            equal = all(torch.allclose(ours, first) for ours, first in zip(gradients, plain))
            post, tensor = zip(*[counts for counts, _ in by_stage.values()])
            print(f"{kind.__name__}: after accumulation {post}, on the tensor {tensor}, the same gradients: {equal}")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    mp.spawn(train, args=(sys.argv[1],), nprocs=RANKS)
PYTHON
"$folder/env/bin/python" "$folder/hooks.py" "$folder/store" 2>/dev/null | tee "$folder/out"
diff - "$folder/out" <<'TEXT' || { echo "changed"; exit 1; }
ScheduleInterleaved1F1B: after accumulation (4, 4, 4, 4), on the tensor (4, 4, 4, 4), the same gradients: True
ScheduleInterleavedZeroBubble: after accumulation (4, 0, 0, 0), on the tensor (4, 4, 4, 4), the same gradients: True
ScheduleZBVZeroBubble: after accumulation (4, 0, 0, 0), on the tensor (4, 4, 4, 4), the same gradients: True
TEXT
echo "as found: under a split backward, hooks after accumulation run on the first stage alone"
