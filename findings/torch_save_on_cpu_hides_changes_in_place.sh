#!/usr/bin/env bash
# torch 2.11.0: `torch.autograd.graph.save_on_cpu` on tensors of the CPU.
#
# Guess: offloading what autograd saves changes where it is, and nothing else. A saved tensor that
# is changed in place is an error of the backward, as always; or it was copied, and the gradient is
# right.
# Seen: on a CPU nothing is copied, and the check of in-place changes is gone, as for all tensors
# that hooks pack. The backward computes with the changed values: a wrong gradient, no error.
# Who is hit: whoever tests a model with offload on a CPU, or offloads a model that is on both.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.11.0 numpy==2.3.5

"$folder/env/bin/python" - 2>/dev/null <<'PYTHON'
from contextlib import nullcontext

import torch
from torch.autograd.graph import save_on_cpu


def gradient(saving):
    x = torch.tensor([0.5, 1.0], requires_grad=True)
    with saving():
        y = x.exp()
    y.add_(1)
    try:
        y.sum().backward()
    except RuntimeError as error:
        return str(error)
    return x.grad


print("torch", torch.__version__)
right = torch.tensor([0.5, 1.0]).exp()
plain, offloaded = gradient(nullcontext), gradient(save_on_cpu)
print("the gradient is", right.tolist())
print("without offload:", plain)
print("with offload:", offloaded.tolist())
assert "modified by an inplace operation" in plain
assert torch.equal(offloaded, right + 1)
PYTHON
