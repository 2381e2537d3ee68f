#!/usr/bin/env bash
# torch.optim with `fused=True`, torch 2.11.0, on the CPU: a backward through a graph from before the
# update.
#
# Guess: a RuntimeError ("modified by an inplace operation"), as with the other two implementations:
# `step` writes to the parameters in place, and autograd counts such writes.
# Seen: the default and `foreach=True` raise. With `fused=True`, Adam, AdamW, SGD and Adagrad leave
# the parameters' version counters as they are, so the backward runs, with the new parameters where
# the old ones belong. The gradient of (p * p).sum() at p = 1 is 2 before the step and 1.8 after it.
# Who is hit: whoever keeps a graph over a step (an accumulated loss, a meta-learner, a stage of a
# pipeline that is still in flight), and relied on the error; and every caller of the fused kernels.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.11.0 numpy==2.3.5

"$folder/env/bin/python" - <<'PYTHON'
import torch

print("torch", torch.__version__)
for optimizer in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad):
    for options in ({}, {"foreach": True}, {"fused": True}):
        parameter = torch.nn.Parameter(torch.ones(4))
        update = optimizer([parameter], lr=0.1, **options)
        loss = (parameter * parameter).sum()
        loss.backward(retain_graph=True)
        update.step()
        parameter.grad = None
        try:
            loss.backward()
            seen = "silent"
        except RuntimeError:
            seen = "RuntimeError"
        name = next(iter(options), "default")
        print(f"{optimizer.__name__:8} {name:8} version {parameter._version}, second backward: {seen}")
        expected = "silent" if options.get("fused") else "RuntimeError"
        assert seen == expected, f"changed: {optimizer.__name__} {name} is {seen}"
        if options.get("fused"):
            assert parameter._version == 0, "changed: the counter has moved"
            assert not torch.allclose(parameter.grad, torch.full((4,), 2.0)), "changed: the gradient is right"
print("as found: fused updates do not count as writes")
PYTHON
