#!/usr/bin/env bash
# torch.optim.SGD with `fused=True`, torch 2.11.0, on the CPU: parameters in bfloat16 and float16.
#
# Guess: p - lr * g, as in float32 and as without `fused`.
# Seen: the parameters stay as they are. Of 64 elements none moves; of 40, only the last 8, which fill
# no vector register. There is no error, and the momentum buffer is updated. In a program that had
# freed other tensors before, elements were seen to become very large. float32, float64, and Adam and
# AdamW in 16 bits are right. (torch 2.15.0 is right.)
# Who is hit: whoever trains 16-bit parameters by fused SGD on a CPU: nothing is learnt, in silence.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.11.0 numpy==2.3.5

"$folder/env/bin/python" - <<'PYTHON'
import torch


def moved(kind, count, **options):
    """How many elements the first step has moved by the gradient."""
    gradient = torch.arange(1, count + 1).to(kind)
    parameter = torch.nn.Parameter(torch.zeros(count, dtype=kind))
    optimizer = torch.optim.SGD([parameter], lr=1.0, **options)
    parameter.grad = gradient.clone()
    optimizer.step()
    return (parameter.detach() == -gradient).sum().item()


print("torch", torch.__version__)
for options in ({}, {"momentum": 0.5}):
    for kind in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        plain = moved(kind, 64, **options)
        fused = [moved(kind, count, fused=True, **options) for count in (64, 40)]
        print(f"{kind} {options or ''}: by default {plain} of 64 moved; fused {fused[0]} of 64, {fused[1]} of 40")
        assert plain == 64
        assert fused == ([64, 40] if kind.itemsize > 2 else [0, 8]), "changed"
print("as found: fused SGD updates no 16-bit parameter but for the last elements")
PYTHON
