"""Repeats in torchgpipe the cases and faults that the Rust program `oracle` wrote, and compares.

    python compare.py folder

Cases: the same weights, inputs and loss must give the same outputs, gradients and statistics.

Faults: where torchgpipe is wrong, the right result is that of the plain model, or an error. This
library's result must be right, and torchgpipe's must be wrong.
"""

import itertools
import json
import pathlib
import sys
import warnings
from collections import OrderedDict

warnings.simplefilter("ignore")  # numpy is not needed

import torch
import torchgpipe
from torch import nn
from torchgpipe import GPipe, is_recomputing
from torchgpipe.balance import blockpartition
from torchgpipe.skip import pop, skippable, stash

ROOT = pathlib.Path(__file__).parents[2]
TOLERANCE = 1e-5  # of the largest number in a tensor, or of 1 if all are smaller
KINDS = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "F16": torch.float16,
         "BF16": torch.bfloat16, "U8": torch.uint8}


# ---------------------------------------- models: layers by name, and their number in each stage

def keep(name):
    @skippable(stash=[name])
    class Keep(nn.Module):
        def forward(self, x):
            yield stash(name, x)
            return x
    return Keep()


def take(name, join):
    @skippable(pop=[name])
    class Take(nn.Module):
        def forward(self, x):
            return join(x, (yield pop(name)))
    return Take()


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Mix(nn.Linear):
    def forward(self, pair):
        return super().forward(pair[0]) * pair[1], pair[1].sin()


class Both(nn.Linear):
    def forward(self, pair):
        return pair[0] + pair[1], super().forward(pair[0])


def concat(x, skip):
    return torch.cat([x, skip], 1)


MODELS = {
    "mlp": lambda: ([4, 3, 2], dict(
        keep_far=keep("far"), first=nn.Linear(6, 8), tanh=nn.Tanh(), keep_near=keep("near"),
        second=nn.Linear(8, 8), add=take("near", torch.add), relu=nn.ReLU(),
        concat=take("far", concat), last=nn.Linear(14, 3))),
    "conv": lambda: ([3, 2, 3], dict(
        first=nn.Conv2d(2, 4, 3), norm1=nn.BatchNorm2d(4), relu1=nn.ReLU(),
        second=nn.Conv2d(4, 4, 3), norm2=nn.BatchNorm2d(4),
        relu2=nn.ReLU(), flatten=nn.Flatten(), last=nn.Linear(36, 3))),
    "pair": lambda: ([1, 1], dict(mix=Mix(6, 6), both=Both(6, 3))),
    "dropout": lambda: ([2, 2], dict(
        first=nn.Linear(6, 8), drop1=nn.Dropout(0.5), drop2=nn.Dropout(0.3), last=nn.Linear(8, 3))),
    "dropout of everything": lambda: ([3, 2], dict(
        first=nn.Linear(6, 8), keep=keep("early"), drop=nn.Dropout(1.0), add=take("early", torch.add),
        last=nn.Linear(8, 3))),
}


# ---------------------------------------------------------------- cases

def load(file):
    """Reads a safetensors file."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for key, info in json.loads(data[8:start]).items():
        if key == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        values = torch.frombuffer(bytearray(data[start + begin:start + end]), dtype=KINDS[info["dtype"]])
        tensors[key] = values.view(info["shape"])
    return tensors


def read(file):
    """Reads a safetensors file into nested dicts of tensors, by the parts of `kind/name`."""
    tensors = {}
    for key, tensor in load(file).items():
        kind, name = key.split("/")
        tensors.setdefault(kind, {})[name] = tensor
    return tensors


def run(case, ours):
    """Runs the same step in torchgpipe. The keys of the result are those of our file."""
    balance, layers = MODELS[case["model"]]()
    model = nn.Sequential(OrderedDict(layers))
    model.load_state_dict(ours["before"], strict=False)
    missing = {name for name in model.state_dict() if "num_batches" not in name} ^ set(ours["before"])
    assert not missing, f"the models differ: {missing}"
    pipe = GPipe(model, balance, devices=["cpu"] * len(balance), chunks=case["chunks"], checkpoint=case["checkpoint"],
                 deferred_batch_norm=True)
    pipe.train(case["training"])

    inputs = {name: tensor.clone().requires_grad_() for name, tensor in ours["input"].items()}
    values = tuple(inputs[name] for name in sorted(inputs))
    outputs = pipe(values if len(values) > 1 else values[0])
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum((output * ours["loss_weight"][str(i)]).sum() for i, output in enumerate(outputs)).backward()
    return {
        "output": {str(i): output.detach() for i, output in enumerate(outputs)},
        "input_gradient": {name: tensor.grad for name, tensor in inputs.items()},
        "gradient": {name: parameter.grad for name, parameter in model.named_parameters()},
        "after": {name: buffer for name, buffer in model.named_buffers() if name in ours.get("after", {})},
    }


def without_faults(case, ours, theirs):
    """Leaves out statistics where torchgpipe's are late, and makes its variances unbiased. Both are
    faults below.
    """
    rows, chunks = case["rows"], case["chunks"]
    micro_batches = -(-rows // -(-rows // chunks))
    if not case["training"]:
        return
    if micro_batches < chunks:
        ours["after"] = theirs["after"] = {}
    for name, variance in theirs["after"].items():
        if name.endswith("running_var"):
            pixels = {"norm1": 25, "norm2": 9}[name.split(".")[0]]
            count = rows * pixels
            before = 0.9 * ours["before"][name]
            theirs["after"][name] = before + (variance - before) * count / (count - 1)


def difference(ours, theirs):
    """The largest difference, relative to the largest number or 1, and its place."""
    gaps = []
    for kind, tensors in theirs.items():
        found = ours.get(kind, {})
        assert found.keys() == tensors.keys(), f"{kind}: {list(found)} {list(tensors)}"
        for name, expected in tensors.items():
            assert found[name].shape == expected.shape, f"{kind} {name}: {found[name].shape} {expected.shape}"
            gap = (found[name] - expected).abs().max() / expected.abs().max().clamp(min=1.0)
            gaps.append((gap.nan_to_num(nan=torch.inf).item(), f"{kind} {name}"))
    return max(gaps)


def compare_case(case, folder):
    ours = read(folder / case["file"])
    theirs = run(case, ours)
    without_faults(case, ours, theirs)
    largest, where = difference(ours, theirs)
    agrees = largest <= TOLERANCE
    mode = f"checkpoint {case['checkpoint']}" if case["training"] else "evaluation"
    verdict = f"agree (max difference {largest:.0e})" if agrees else f"DIFFER by {largest:.1e} in {where}"
    print(f"{case['model']}, {case['rows']} rows, chunks {case['chunks']}, {mode}: {verdict}")
    return agrees


# ---------------------------------------- faults: what is right, and what torchgpipe does

FAULTS = []


def fault(title, fails=""):
    """Registers a fault. `fails` is the error that shows it; if empty, a wrong result shows it."""
    def register(function):
        FAULTS.append((title, fails, function))
        return function
    return register


class Failed(str):
    """The text of an error."""


def counting(rows):
    return torch.arange(2.0 * rows).view(rows, 2)


def linear():
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = (counting(2) + 1) * 0.1
    return layer


def pipe(*layers, **settings):
    """A pipeline with each layer in a separate stage."""
    settings = {"chunks": 2, "checkpoint": "always", **settings}
    return GPipe(nn.Sequential(*layers), [1] * len(layers), devices=["cpu"] * len(layers), **settings)


def attempt(function):
    """The result of `function`, or its error."""
    try:
        return function()
    except Exception as error:
        return Failed(f"{type(error).__name__}: {error}".strip(": "))


def both(function, *make, **settings):
    """The results of `function` with the plain model and with torchgpipe."""
    plain = nn.Sequential(*(layer() for layer in make))
    return function(plain), attempt(lambda: function(pipe(*(layer() for layer in make), **settings)))


def first_gradient(model, loss):
    loss(model(counting(4))).backward()
    return next(model.parameters()).grad


@fault("except_last recomputes the last micro-batch too, if there are fewer than chunks (5 rows in 4 chunks)")
def except_last_spares_none():
    count = []

    def recomputed(x):
        count.extend([1] * is_recomputing())
        return x * 2

    x = counting(5).requires_grad_()
    pipe(Function(recomputed), linear(), chunks=4, checkpoint="except_last")(x).sum().backward()
    return 2, len(count)


def statistic(name, x, chunks):
    def after(model):
        model(x).sum().backward()
        return getattr(model[0], name)
    return both(after, lambda: nn.BatchNorm1d(2), linear, chunks=chunks, deferred_batch_norm=True)


@fault("deferred batch norm keeps the biased variance")
def biased_variance():
    return statistic("running_var", counting(4), 2)


@fault("deferred batch norm's variance cancels for large means")
def cancelling_variance():
    right, theirs = statistic("running_var", counting(4) / 8 + 4096, 2)
    return right, 0.9 + (theirs - 0.9) * 4 / 3  # unbiased, to leave out the fault above


@fault("deferred batch norm has not yet seen a mini-batch of fewer micro-batches than chunks (6 rows in 4 chunks)")
def straddling_statistics():
    return statistic("running_mean", counting(6), 4)


@fault("plain batch norm updates its statistics again when it is recomputed")
def statistics_updated_twice():
    norm = nn.BatchNorm1d(2)
    for part in counting(4).chunk(2):
        norm(part)
    model = pipe(nn.BatchNorm1d(2), linear())
    model(counting(4)).sum().backward()
    return norm.running_mean, model[0].running_mean


@fault("inputs of 4 and 3 rows in 4 chunks lose a row")
def lost_rows():
    model = pipe(Function(lambda pair: pair[0] + pair[1]), linear(), chunks=4)
    rows = len(model((counting(4), counting(3))))
    assert rows == 3, rows
    return "rows of the inputs do not belong together", f"an output of {rows} rows"


@fault("a loss that ignores the first output fails in backward", fails="IndexError: pop from an empty deque")
def ignored_first_output():
    outputs = lambda: Function(lambda x: (x.sin(), x.cos()))
    return both(lambda model: first_gradient(model, lambda y: y[1].sum()), linear, outputs)


@fault("a first output of integers fails in backward", fails="IndexError: pop from an empty deque")
def integer_first_output():
    outputs = lambda: Function(lambda x: (x.argmax(-1), x.sin()))
    return both(lambda model: first_gradient(model, lambda y: y[1].sum()), linear, outputs)


@fault("outputs in a list fail", fails="can only concatenate list")
def list_outputs():
    outputs = lambda: Function(lambda x: [x.sin(), x.cos()])
    return both(lambda model: first_gradient(model, lambda y: (y[0] * y[1]).sum()), linear, outputs)


@fault("a skip of integers fails in backward", fails="AssertionError")
def skip_without_gradient():
    @skippable(stash=["order"])
    class Sort(nn.Module):
        def forward(self, x):
            yield stash("order", x.argsort(-1))
            return x

    join = lambda x, order: x.gather(-1, order).sin()
    plain = first_gradient(nn.Sequential(linear(), Function(lambda x: join(x, x.argsort(-1)))), torch.sum)
    model = lambda: pipe(linear(), Sort(), take("order", join), checkpoint="never")
    return plain, attempt(lambda: first_gradient(model(), torch.sum))


@fault("a nested skip that nobody pops is not noticed")
def nested_skips():
    pipe(nn.Sequential(linear(), keep("left")), linear())(counting(4)).sum().backward()
    return "no layer declared", "accepted"


@fault("autocast is lost in the workers")
def lost_autocast():
    def kind(model):
        with torch.autocast("cpu", torch.bfloat16):
            return str(model(counting(4)).dtype).removeprefix("torch.")
    return both(kind, linear, linear)


@fault("a second backward through a retained graph fails", fails="IndexError: pop from an empty deque")
def second_backward():
    def twice(model):
        loss = model(counting(4)).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        return list(model.parameters())[1].grad
    return both(twice, linear, linear)


@fault("autograd.grad does not find the parameters", fails="appears to not have been used in the graph")
def gradients_of_parameters():
    def gradients(model):
        loss = model(counting(4).requires_grad_()).sum()
        return torch.stack(torch.autograd.grad(loss, list(model.parameters())))
    return both(gradients, linear, linear)


@fault("autograd.grad on the input fills the parameters' .grad")
def polluted_gradients():
    def filled(model):
        x = counting(4).requires_grad_()
        torch.autograd.grad(model(x).sum(), x)
        return sum(parameter.grad is not None for parameter in model.parameters())
    return both(filled, linear, linear)


@fault("names in saved files depend on the partitioning")
def names():
    names = lambda model: sorted(model.state_dict())
    layers = lambda: OrderedDict(first=linear(), last=linear())
    return names(nn.Sequential(layers())), names(GPipe(nn.Sequential(layers()), [1, 1], devices=["cpu"] * 2))


@fault("block partitioning is not the best one: layers of 4, 1, 1, 4, 1, 1, 1, 4 in three stages, the largest stage")
def block_partitions():
    costs, stages = [4, 1, 1, 4, 1, 1, 1, 4], 3
    cuts = ([0, *cut, len(costs)] for cut in itertools.combinations(range(1, len(costs)), stages - 1))
    best = min(max(sum(costs[a:b]) for a, b in itertools.pairwise(ends)) for ends in cuts)
    return best, max(sum(block) for block in blockpartition.solve(costs, stages))


NOT_SHOWN = {
    "one leaked thread per pipe": "of torch's Pipe alone",
    "a checkpointed layer that works on its input in place gets wrong gradients": "of torch's Pipe alone",
    "random numbers of several devices race for one generator": "needs two of them",
}


def equal(a, right):
    """Compares numbers up to rounding, and errors by the words of `right`."""
    if isinstance(right, str):
        return isinstance(a, str) and right in a
    if isinstance(a, str) or isinstance(right, list):
        return a == right
    a, right = (torch.as_tensor(value, dtype=torch.float64).flatten() for value in (a, right))
    return a.shape == right.shape and torch.allclose(a, right, rtol=1e-5, atol=1e-6)


def show(value):
    if isinstance(value, torch.Tensor):
        value = value.flatten().tolist()
    if isinstance(value, list):
        return "[" + ", ".join(show(part) for part in value) + "]"
    return f"{value:.5g}" if isinstance(value, float) else str(value).splitlines()[0]


def compare_fault(title, fails, function, ours):
    right, theirs = function()
    print(f"{title}\n    right:  {show(right)}\n    ours:   {show(ours)}\n    theirs: {show(theirs)}")
    wrong = fails in theirs if fails else not equal(theirs, right)
    if not equal(ours, right):
        print("    OURS IS WRONG")
    if not wrong or isinstance(theirs, Failed) != bool(fails):
        print("    THEIRS IS NOT WRONG IN THIS WAY")
        return False
    return equal(ours, right)


# ---------------------------------------- optimizers, beside those of torch


def shards(folder, kind):
    """All tensors of a checkpoint, by the index that tells where they are."""
    files = set(json.loads((folder / f"{kind}.safetensors.index.json").read_text())["weight_map"].values())
    return {name: tensor for file in sorted(files) for name, tensor in load(folder / file).items()}


def trained(case, start, gradients, round_to=None, **implementation):
    """The parameters, the state and the norms after the same steps of torch's optimizer. With
    `round_to`, it computes in float32, and rounds all that it keeps to that kind after each step.
    """
    if round_to:
        start = {name: tensor.float() for name, tensor in start.items()}
    parameters = {name: nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    groups = [{"params": list(parameters.values())}]
    if case["no_decay"]:
        groups = [{"params": [p for p in parameters.values() if p.dim() > 1]},
                  {"params": [p for p in parameters.values() if p.dim() <= 1], "weight_decay": 0.0}]
    kind = {"Sgd": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[case["rule"]]
    optimizer = kind(groups, **case["options"], **implementation)
    norms = []
    for step in range(case["steps"]):
        factor = 0.5 ** (step % 5) * (-1.0 if step % 3 == 0 else 1.0)
        for name, parameter in parameters.items():
            parameter.grad = (gradients[name] * factor).to(parameter.dtype)
        values = list(parameters.values())
        norms.append(torch.nn.utils.get_total_norm(p.grad.double() for p in values).item())
        if case["clip_norm"]:
            torch.nn.utils.clip_grad_norm_(values, case["clip_norm"])
        if case["clip_value"]:
            torch.nn.utils.clip_grad_value_(values, case["clip_value"])
        optimizer.step()
        for parameter in values if round_to else []:
            for kept in [parameter.detach(), *optimizer.state[parameter].values()]:
                kept.copy_(kept.to(round_to))
    state = {f"{key}.{name}": tensor for name, parameter in parameters.items()
             for key, tensor in optimizer.state[parameter].items() if key != "step" and tensor is not None}
    return {name: parameter.detach() for name, parameter in parameters.items()}, state, norms


def largest_gap(ours, theirs):
    assert ours.keys() == theirs.keys(), f"{sorted(ours)} {sorted(theirs)}"
    gaps = [(ours[name].double() - theirs[name].double()).abs() / theirs[name].double().abs().clamp(min=1.0)
            for name in ours]
    return max((gap.max().item() for gap in gaps), default=0.0)


def compare_optimizer(case, folder):
    given = read(folder / case["file"])
    model = shards(folder / case["checkpoint"], "model")
    state = shards(folder / case["checkpoint"], "optimizer")
    state.pop("random_state.cpu")
    verdicts = []
    for implementation, bar in [({"fused": True}, 0.0), ({"foreach": False, "fused": False}, 1e-6)]:
        if case["kind"] in ("Half", "BFloat16"):
            if not implementation["fused"]:
                continue
            if case["rule"] == "Sgd":
                # torch's fused SGD of this version updates no 16-bit parameter, so this computes in
                # 32 bits and rounds.
                implementation = {"foreach": False, "round_to": KINDS[{"Half": "F16", "BFloat16": "BF16"}[case["kind"]]]}
        if case["clip_norm"] and not bar:
            bar = 1e-6  # torch multiplies by the factor, and ours divides by its inverse
        parameters, expected, norms = trained(case, given["start"], given["gradient"], **implementation)
        gap = max(largest_gap(model, parameters), largest_gap(state, expected) if bar == 0 else 0.0)
        norm_gap = max(abs(a - b) / b for a, b in zip(case["norms"], norms))
        bar_of_norm = {"Half": 2e-3, "BFloat16": 1e-2}.get(case["kind"], 1e-5)
        name = "fused" if implementation.get("fused") else "default"
        verdicts.append(gap <= bar and norm_gap <= bar_of_norm)
        print(f"{case['rule']} {case['kind']} {case['options']}, clip {case['clip_norm'] or case['clip_value']}, {name}: "
              f"{'equal' if gap == 0 else f'max difference {gap:.1e}'}, norm {norm_gap:.0e}"
              f"{'' if verdicts[-1] else ' DIFFERS'}")
    return all(verdicts)


def compare_schedules(ours):
    def factors(make):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = make(optimizer)
        found = []
        for _ in range(40):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if len(found) < 40:
                schedule.step()
        return found

    from torch.optim import lr_scheduler as lr

    cosine = factors(lambda o: lr.CosineAnnealingLR(o, 30, eta_min=0.2))
    short = factors(lambda o: lr.CosineAnnealingLR(o, 20))
    theirs = {
        "linear": factors(lambda o: lr.LinearLR(o, 1.0, 0.1, 20)),
        "cosine": cosine[:31] + [0.2] * 9,  # torch's goes up again
        "one_cycle": factors(lambda o: lr.OneCycleLR(o, 1.0, 40, cycle_momentum=False)),
        "step": factors(lambda o: lr.StepLR(o, 7, 0.3)),
        "exponential": factors(lambda o: lr.ExponentialLR(o, 0.9)),
        "warmup_and_cosine": factors(lambda o: lr.LinearLR(o, 1 / 8, 1.0, 7))[:8] + short[:21] + [0.0] * 11,
    }
    assert ours.keys() == theirs.keys()
    agree = []
    for name, expected in theirs.items():
        gap = max(abs(a - b) for a, b in zip(ours[name], expected))
        agree.append(len(expected) == 40 and gap < 1e-9)
        print(f"learning rate, {name}: max difference {gap:.0e}{'' if agree[-1] else ' DIFFERS'}")
    return all(agree)


def compare_scales(ours):
    scaler = torch.amp.GradScaler("cpu", growth_factor=3.0, backoff_factor=0.25, growth_interval=4)
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    theirs = []
    for step in range(30):
        scaler.scale(parameter.sum())
        parameter.grad = torch.full((2,), float("inf") if step % 7 == 0 else scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
        theirs.append(scaler.get_scale())
    print(f"loss scales: {'equal' if ours == theirs else f'DIFFER: {ours} {theirs}'}")
    return ours == theirs


def main():
    folder = pathlib.Path(sys.argv[1])
    torch.set_num_threads(1)
    print(f"torchgpipe {torchgpipe.__version__} on torch {torch.__version__}\n")
    oracle = json.loads((folder / "oracle.json").read_text())
    # The compiler's message is in the expected output of its test.
    message = (ROOT / "ui-tests/cases/skips/popped_if_stashed.stderr").read_text()
    oracle["faults"]["nested_skips"] = message.splitlines()[0].removeprefix("error: ")

    cases = [compare_case(case, folder) for case in oracle["cases"]]
    print()
    assert {fault[-1].__name__ for fault in FAULTS} == set(oracle["faults"]), "the lists of faults differ"
    faults = [compare_fault(*fault, oracle["faults"][fault[-1].__name__]) for fault in FAULTS]
    for title, reason in NOT_SHOWN.items():
        print(f"{title}\n    not shown: {reason}")
    print()
    trainings = [compare_optimizer(case, folder) for case in oracle["optimizers"]["cases"]]
    trainings += [compare_schedules(oracle["optimizers"]["schedules"]), compare_scales(oracle["optimizers"]["scales"])]
    print()
    if not all(trainings):
        sys.exit(f"oracle: {trainings.count(False)} of {len(trainings)} comparisons of optimizers differ")
    if not all(cases) or not all(faults):
        differ, missing = cases.count(False), faults.count(False)
        sys.exit(f"oracle: {differ} of {len(cases)} cases differ, {missing} of {len(faults)} faults not shown")
    print(f"oracle: {len(cases)} cases agree, {len(faults)} faults: ours right, theirs wrong, {len(trainings)} comparisons of optimizers agree")


main()
