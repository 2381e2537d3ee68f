#!/usr/bin/env bash
# torch 2.11.0, `torch.distributed.pipelining.pipeline`: a model whose embedding and output layer are
# one parameter, split between the two.
#
# Guess: the stages share the gradient of the tied weight, or splitting there is an error.
# Seen: each stage gets a copy of the weight, and the model's own stays in the first stage under the
# other name, where nothing uses it. There is no error. A step of SGD that the whole model would do
# once, on the sum of both gradients, moves each copy by its own part: they differ from then on, and
# neither is the weight that plain training gives. A comment in `_IR.py` says that such gradients
# will be added before the optimizer's step; `pipe.replicated_params` lists the pair, and nothing in
# the package reads it.
# Who is hit: whoever splits a language model with tied embeddings by the tracer.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet setuptools wheel torch==2.11.0 numpy==2.3.5

"$folder/env/bin/python" - 2>/dev/null <<'PYTHON'
import copy

import torch
from torch import nn
from torch.distributed.pipelining import SplitPoint, pipeline


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.body(self.embed(tokens)))


def step(run, parameters):
    optimizer = torch.optim.SGD(parameters, 0.1)
    run(tokens).square().mean().backward()
    optimizer.step()


torch.manual_seed(0)
model = Language()
plain = copy.deepcopy(model)
tokens = torch.randint(0, 11, (8, 5))
pipe = pipeline(model, (tokens,), split_spec={"body": SplitPoint.BEGINNING})
first, second = (pipe.get_stage_module(stage) for stage in range(pipe.num_stages))
weights = {
    f"stage {stage}: {name}": parameter
    for stage, module in enumerate((first, second))
    for name, parameter in module.named_parameters()
    if parameter.shape == model.embed.weight.shape
}
print("torch", torch.__version__)
print("where the tied weight is:", ", ".join(weights))
assert list(weights) == ["stage 0: embed.weight", "stage 0: head.weight", "stage 1: head.weight"]
embed, unused, head = weights.values()
assert unused is model.embed.weight
assert len({weight.data_ptr() for weight in weights.values()}) == 3
assert all(torch.equal(weight, model.embed.weight) for weight in weights.values())
with torch.no_grad():
    assert torch.equal(second(first(tokens)), model(tokens))

step(lambda tokens: second(first(tokens)), [*first.parameters(), *second.parameters()])
assert unused.grad is None
step(plain, plain.parameters())
gradients = embed.grad + head.grad
assert torch.allclose(gradients, plain.embed.weight.grad, atol=1e-6)
print("the copies' gradients add up to that of the tied weight")
difference = (embed - head).abs().max().item()
print(f"after one step, the copies differ by up to {difference:.3f}")
assert difference > 1e-3
for weight in embed, head:
    assert not torch.allclose(weight, plain.embed.weight, atol=1e-4)
print("neither is what plain training gives")
PYTHON
