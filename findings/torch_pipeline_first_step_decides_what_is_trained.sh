#!/usr/bin/env bash
# torch.distributed.pipelining, torch 2.15.0: a first stage that is frozen in the first step, and
# trained in later ones.
#
# Guess: freezing is looked at in each step, as in plain PyTorch: after `requires_grad_(True)`, the
# next step gives the stage its gradients.
# Seen: what the stages send each other is settled in the first step. A stage after a frozen one sends
# no gradient back, ever: the first step after unfreezing raises "Failed to run stage backward". The
# other way round, freezing a stage that was trained, works. Stages that are made anew after unfreezing
# work, too.
# Who is hit: whoever unfreezes a trunk after its head was trained for a while.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 numpy==2.3.5

cat >"$folder/unfreezing.py" <<'PYTHON'
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

RANKS = 2


def outcome(schedule, layer, rank, data):
    layer.zero_grad()
    try:
        schedule.step(data[0]) if rank == 0 else schedule.step(target=data[1])
    except RuntimeError as error:
        return "an error: " + str(error).split("\n")[1].strip()
    return "gradients" if layer.weight.grad is not None else "no gradients"


def train(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    for kind in [ScheduleGPipe, Schedule1F1B]:
        for is_trained, is_made_anew in [(False, False), (False, True), (True, False)]:
            torch.manual_seed(0)
            layer = [nn.Linear(4, 4), nn.Linear(4, 4)][rank]
            data = torch.randn(8, 4), torch.randn(8, 4)

            def schedule():
                return kind(PipelineStage(layer, rank, RANKS, torch.device("cpu")), 2, loss_fn=nn.MSELoss())

            layer.requires_grad_(rank == 1 or is_trained)
            first = schedule()
            outcomes = [outcome(first, layer, rank, data)]
            layer.requires_grad_(rank == 1 or not is_trained)
            outcomes.append(outcome(schedule() if is_made_anew else first, layer, rank, data))
            if rank == 0:
                about = "trained, then frozen" if is_trained else "frozen, then trained"
                print(f"{kind.__name__}, {about}{', made anew' if is_made_anew else ''}: {', '.join(outcomes)}")
            dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    mp.spawn(train, args=(sys.argv[1],), nprocs=RANKS)
PYTHON
"$folder/env/bin/python" "$folder/unfreezing.py" "$folder/store" 2>/dev/null | tee "$folder/out"
diff - "$folder/out" <<'TEXT' || { echo "changed"; exit 1; }
ScheduleGPipe, frozen, then trained: no gradients, an error: Failed to run stage backward:
ScheduleGPipe, frozen, then trained, made anew: no gradients, gradients
ScheduleGPipe, trained, then frozen: gradients, no gradients
Schedule1F1B, frozen, then trained: no gradients, an error: Failed to run stage backward:
Schedule1F1B, frozen, then trained, made anew: no gradients, gradients
Schedule1F1B, trained, then frozen: gradients, no gradients
TEXT
echo "as found: a first stage that was frozen in the first step cannot be trained later"
