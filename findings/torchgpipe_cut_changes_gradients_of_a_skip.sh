#!/usr/bin/env bash
# torchgpipe 0.0.7 with torch 2.11.0: a model that stashes a layer's output, and whose next layer works
# in place on it.
#
# Guess: `balance` says where layers run. The gradients are the same for all of them, or there is an
# error where autograd cannot follow.
# Seen: the output is the same for all of them, and so are the gradients in one partition, where the
# skip is the tensor that the next layer changes. With a cut between stash and pop, the gradient of the
# skip passes by that layer: other gradients, no error. A cut right behind the stash is an error of
# autograd if partitions are checkpointed (`always`, `except_last`), and none with `never`.
# Who is hit: whoever cuts a residual network whose activations are in place.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet setuptools wheel torch==2.11.0 numpy==2.3.5
"$folder/env/bin/pip" install --quiet --no-build-isolation torchgpipe==0.0.7

"$folder/env/bin/python" - 2>/dev/null <<'PYTHON'
import torch
import torchgpipe
from torch import nn
from torchgpipe.skip import pop, skippable, stash


@skippable(stash=["skip"])
class Keep(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        output = self.linear(x)
        yield stash("skip", output)
        return output


@skippable(pop=["skip"])
class Add(nn.Module):
    def forward(self, x):
        skip = yield pop("skip")
        return x + skip


def step(balance, checkpoint):
    torch.manual_seed(0)
    layers = nn.Sequential(Keep(), nn.ReLU(inplace=True), Add(), nn.Linear(4, 4))
    x = torch.randn(4, 4)
    model = torchgpipe.GPipe(
        layers, balance, devices=["cpu"] * len(balance), chunks=2, checkpoint=checkpoint
    )
    output = model(x)
    output.square().sum().backward()
    return output.detach(), next(layers.parameters()).grad


print("torch", torch.__version__, "torchgpipe", torchgpipe.__version__)
for checkpoint in ["never", "except_last", "always"]:
    output, gradient = step([4], checkpoint)
    for balance in [[2, 2], [1, 3]]:
        try:
            cut_output, cut_gradient = step(balance, checkpoint)
        except RuntimeError as error:
            print(checkpoint, balance, "error:", str(error).splitlines()[0])
            assert balance == [1, 3] and checkpoint != "never", "changed"
            continue
        by = (cut_gradient - gradient).abs().max().item()
        print(checkpoint, balance, "same output:", torch.equal(output, cut_output), f"gradient off by {by:.3f}")
        assert torch.equal(output, cut_output) and by > 0.1, "changed"
        assert balance == [2, 2] or checkpoint == "never", "changed"
print("as found: a cut between stash and pop gives other gradients, and no error")
PYTHON
