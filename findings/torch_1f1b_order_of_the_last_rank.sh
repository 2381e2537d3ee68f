#!/usr/bin/env bash
# torch.distributed.pipelining, torch 2.11.0: `Schedule1F1B._get_pipeline_order()`.
#
# Guess: the lists of 1F1B, each micro-batch forward and backward once on every rank.
# Seen: the last rank's forwards are numbered from 1: for 3 ranks and 4 micro-batches it has `2F1` to
# `2F4`, and no `2F0`. The other ranks are right, and so is what `step` runs, which does not use these
# lists. (2.15.0 gives the same lists.)
# Who is hit: whoever draws, simulates or loads the lists that PyTorch itself gives for 1F1B.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.11.0 numpy==2.3.5

"$folder/env/bin/python" - 2>/dev/null <<'PYTHON'
from unittest import mock

import torch
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import Schedule1F1B

ranks, micro_batches = 3, 4
stage = mock.create_autospec(PipelineStage, instance=True)
stage.group_rank, stage.group_size, stage.num_stages, stage.submod = 0, ranks, ranks, None
print("torch", torch.__version__)
for rank, actions in Schedule1F1B(stage, micro_batches)._get_pipeline_order().items():
    actions = [str(action) for action in actions if action is not None]
    print(f"rank {rank}:", *actions)
    forwards = [action for action in actions if "F" in action]
    first = 1 if rank == ranks - 1 else 0
    expected = [f"{rank}F{number}" for number in range(first, first + micro_batches)]
    assert forwards == expected, f"changed: rank {rank} has {forwards}"
print("as found: the last rank's forwards begin with micro-batch 1")
PYTHON
