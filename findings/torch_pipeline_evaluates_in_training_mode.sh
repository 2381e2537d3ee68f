#!/usr/bin/env bash
# torch.distributed.pipelining, torch 2.15.0: what `schedule.eval` and `stage.submod.eval()` evaluate.
#
# Guess: a stage that `pipeline()` traced is a module as any other: after `stage.submod.eval()`, its
# dropout is off, and its batch norm uses the running statistics and leaves them.
# Seen: `eval()` is accepted and sets `training` to false, but dropout and batch norm stay in the mode
# in which the model was traced. Two evaluations of one batch differ, and each moves the running
# statistics. `schedule.eval` changes no mode either: with stages that were built by hand, it evaluates
# in training mode until `eval()` is called on the stage's module, which then holds.
# Who is hit: whoever validates between epochs: the figures are those of a model with dropout, and the
# statistics have seen the validation data.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 numpy==2.3.5

cat >"$folder/evaluation.py" <<'PYTHON'
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe, SplitPoint, pipeline

RANKS = 2


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout, self.norm, self.last = nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.norm(self.dropout(x)))


def traced(rank, x):
    model = pipeline(Model(), mb_args=(x[:4],), split_spec={"last": SplitPoint.BEGINNING})
    return model.build_stage(rank, torch.device("cpu"))


def by_hand(rank, x):
    model = Model()
    layers = [nn.Sequential(model.dropout, model.norm), model.last]
    return PipelineStage(layers[rank], rank, RANKS, torch.device("cpu"))


def evaluate(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    for name, build in [("traced", traced), ("by hand", by_hand)]:
        for is_switched in [False, True]:
            torch.manual_seed(0)
            x = torch.randn(8, 4)
            stage = build(rank, x)
            if is_switched:
                stage.submod.eval()
                assert not stage.submod.training
            schedule = ScheduleGPipe(stage, 2)
            outputs = [schedule.eval(x) if rank == 0 else schedule.eval() for _ in range(2)]
            seen = [value.item() for key, value in stage.submod.state_dict().items() if "num_batches" in key]
            of_ranks = [None] * RANKS
            dist.all_gather_object(of_ranks, (seen, torch.equal(*outputs) if rank == 1 else None))
            if rank == 0:
                about = f"{name}, {'after eval()' if is_switched else 'as built'}"
                (seen, _), (_, is_equal) = of_ranks
                print(f"{about}: equal outputs {is_equal}, micro-batches in the statistics {seen[0]}")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    mp.spawn(evaluate, args=(sys.argv[1],), nprocs=RANKS)
PYTHON
"$folder/env/bin/python" "$folder/evaluation.py" "$folder/store" 2>/dev/null | tee "$folder/out"
diff - "$folder/out" <<'TEXT' || { echo "changed"; exit 1; }
traced, as built: equal outputs False, micro-batches in the statistics 4
traced, after eval(): equal outputs False, micro-batches in the statistics 4
by hand, as built: equal outputs False, micro-batches in the statistics 4
by hand, after eval(): equal outputs True, micro-batches in the statistics 0
TEXT
echo "as found: stages that were traced evaluate in training mode, also after eval()"
