#!/usr/bin/env bash
# safetensors (Python) 0.8.0 with torch 2.11.0: `safetensors.torch.save_model` of a model in which one
# parameter is a part of another one's memory.
#
# Guess: an alias in the file's metadata (dropped name -> saved name) names a tensor of the same shape,
# as it does for tied weights.
# Seen: `first`, of shape [2, 2], a part of `whole`, of shape [3, 2], is saved as `{'first': 'whole'}`:
# nothing in the file says that it is a part, or which. Python's `load_model` does not need to know,
# since it loads into a model that shares the memory already; into one that does not, `first` is missing.
# Who is hit: readers in other languages that follow aliases, which must compare shapes.
#
# Needs Python 3 with pip and some 5 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.11.0 numpy==2.3.5 safetensors==0.8.0

"$folder/env/bin/python" - "$folder/model.safetensors" <<'PYTHON'
import sys

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model


class Model(torch.nn.Module):
    def __init__(self, shares):
        super().__init__()
        self.whole = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2))
        self.first = torch.nn.Parameter(self.whole.data[:2] if shares else torch.zeros(2, 2))


path = sys.argv[1]
save_model(Model(shares=True), path)
with safe_open(path, "pt") as file:
    metadata, shapes = file.metadata(), {name: list(file.get_tensor(name).shape) for name in file.keys()}
print("safetensors", safetensors.__version__, "torch", torch.__version__)
print("metadata", metadata, "tensors", shapes)
assert metadata == {"first": "whole"} and shapes == {"whole": [3, 2]}, "changed"
assert load_model(Model(shares=True), path) == (set(), []), "changed: it does not load where memory is shared"
try:
    load_model(Model(shares=False), path)
    raise SystemExit("changed: it loads where memory is not shared")
except RuntimeError as error:
    print("not shared:", str(error).splitlines()[-1].strip())
print("as found: the alias names a tensor of another shape")
PYTHON
