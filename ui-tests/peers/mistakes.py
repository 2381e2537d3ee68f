"""Makes the mistakes of `ui-tests/cases/<class>/<rule>.rs` in the peers.

Prints when each peer notices a mistake, and what it says.

    python3.11 -m venv new
    new/bin/pip install torch==2.11.0 'numpy<2' setuptools wheel
    new/bin/pip install --no-build-isolation torchgpipe==0.0.7
    python3.11 -m venv old
    old/bin/pip install torch==2.3.1 'numpy<2'

    new/bin/python mistakes.py torchgpipe  [rule ...]     # torchgpipe.GPipe
    old/bin/python mistakes.py pipe        [rule ...]     # torch.distributed.pipeline.sync.Pipe
    new/bin/python mistakes.py pipelining  [rule ...]     # torch.distributed.pipelining, two ranks

Everything runs on the CPU. Each case runs in separate processes, so that a hang ends with them. A
line of the output is `rule: when: what is said`, or a line per rank if the ranks differ. `when` is
one of

    parse          Python cannot read the program
    construction   before there is any data
    first forward
    backward
    hang           no end within the time limit
    never          the step ends without an error; the rest of the line compares its numbers
                   with the plain model's

A rule without a function here has no counterpart in any peer. `../peers.toml` sums up the output.
"""

import copy
import os
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections import OrderedDict

import torch
from torch import nn

PEER = sys.argv[1]
TIME_LIMIT = 40  # seconds, mostly for importing torch under load

warnings.simplefilter("ignore")
if PEER == "torchgpipe":
    from torchgpipe import GPipe, skip
elif PEER == "pipe":
    from torch.distributed import rpc
    from torch.distributed.pipeline.sync import Pipe, skip
    from torch.distributed.pipeline.sync.pipe import WithDevice
    from torch.distributed.pipeline.sync.utils import partition_model
elif PEER == "pipelining":
    from torch import distributed
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe, SplitPoint, pipeline
    from torch.distributed.pipelining.schedules import get_schedule_class

CPU = torch.device("cpu")
INPUT = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
RULES = {}  # by name: the function and its number of processes
RANK = 0
WHEN = "construction"


def mistake(group, *peers, ranks=2):
    """Registers a function that makes the mistake of its name in `peers` (default: all)."""

    def register(make):
        if not peers or PEER in peers:
            RULES[f"{group}/{make.__name__}"] = make, ranks if PEER == "pipelining" else 1
        return make

    return register


# ---------------------------------------- all cases, each in processes of its own

def main():
    if sys.argv[2:3] == ["--case"]:
        rule, rank, meeting_point = sys.argv[3:]
        return run_case(rule, int(rank), "file://" + meeting_point)
    for rule in sys.argv[2:] or RULES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, PEER, "--case", rule]
            ranks = [
                subprocess.Popen([*command, str(rank), folder + "/meet"], text=True, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL)
                for rank in range(RULES[rule][1])
            ]
            said = [wait(process) for process in ranks]
        same = len(set(said)) == 1
        for rank, line in enumerate(said[:1] if same else said):
            print(f"{rule}: {line}" if same else f"{rule}: rank {rank}: {line}", flush=True)


def wait(process):
    try:
        said, _ = process.communicate(timeout=TIME_LIMIT)
        return said.strip() or f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "hang:"


# ---------------------------------------------------------------- one case

def run_case(rule, rank, meeting_point):
    global RANK
    RANK = rank
    make, ranks = RULES[rule]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if PEER == "pipe":
        options = rpc.TensorPipeRpcBackendOptions(init_method=meeting_point)
        rpc.init_rpc("worker", rank=0, world_size=1, rpc_backend_options=options)
    if PEER == "pipelining":
        distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=ranks)
    try:
        make()
        report("no complaint", when="never")
    except SyntaxError as error:
        report(f"SyntaxError: {error}", when="parse")
    except Exception as error:
        # A schedule's step runs forward and backward in one call. The traceback tells which failed.
        places = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        backward = places & {"backward_one_chunk", "get_bwd_send_ops", "get_bwd_recv_ops", "scale_grads"}
        cause = error.__cause__
        because = f" <- {type(cause).__name__}: {cause}" if cause else ""
        report(f"{type(error).__name__}: {error}{because}", when="backward" if backward else WHEN)


def report(says, when):
    print(f"{when}: {' '.join(says.split())}", flush=True)
    os._exit(0)  # does not wait for worker threads or other ranks


def reach(when):
    global WHEN
    WHEN = when


def train(model, meant=None, **settings):
    """Runs one step of the pipelined model. `meant` is the intended model, by default `model`."""
    meant = copy.deepcopy(model) if meant is None else meant
    if PEER == "torchgpipe":
        settings = {"balance": [1, 1], "devices": ["cpu", "cpu"], "chunks": 2, **settings}
        step(GPipe(model, **settings), model, meant)
    elif PEER == "pipe":
        pipe = Pipe(model, **{"chunks": 2, **settings})
        step(lambda x: pipe(x).local_value(), model, meant)
    else:
        stage = list(model)[0] if RANK == 0 else nn.Sequential(*list(model)[1:])
        step_stage(stage, model, meant, **settings)


def step(forward, model, meant):
    reach("first forward")
    output = forward(INPUT)
    if not isinstance(output, torch.Tensor):
        report(f"wrong output: a {type(output).__name__}", when="never")
    reach("backward")
    output.mean().backward()
    compare(output, model, meant)


def step_stage(module, model, meant, chunks=2, stages=2, **settings):
    """Runs one step of this rank's stage in pipelining."""
    stage = PipelineStage(module, RANK, stages, CPU, **settings)
    step_schedule(stage, chunks, model, meant)


def step_schedule(stage, chunks, model, meant):
    schedule = ScheduleGPipe(stage, chunks, loss_fn=lambda output, target: output.mean())
    reach("first forward")
    inputs = [INPUT] if stage.is_first else []
    target = {"target": torch.zeros(4)} if stage.is_last else {}
    output = schedule.step(*inputs, **target)
    compare(output, model, meant)


def compare(output, model, meant):
    """Reports whether the numbers of the step are those of the plain model."""
    wanted = meant(INPUT)
    if output is not None and not torch.allclose(output, wanted):
        report("wrong output", when="never")
    wanted.mean().backward()
    trained = [(p.grad, q.grad) for p, q in zip(model.parameters(), meant.parameters()) if p.grad is not None]
    same = all(torch.allclose(p, q) for p, q in trained)
    report("same numbers" if same else "wrong gradients", when="never")


def traced(model, split):
    """Runs one step of the stages that pipelining's tracer makes of a model."""
    meant = copy.deepcopy(model)
    stage = pipeline(model, (INPUT[:2].detach(),), split_spec=split).build_stage(RANK, CPU)
    step_schedule(stage, 2, model, meant)


# ---------------------------------------------------------------- layers

def linear(inputs=4, outputs=4):
    return nn.Linear(inputs, outputs)


def two_layers():
    return nn.Sequential(linear(), linear())


class Config:
    """An object that is not a layer."""


class Function(nn.Module):
    """A layer that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Opaque:
    """A value that is not a tensor."""

    def __init__(self, tensor):
        self.tensor = tensor


def skippable(forward, stash=(), pop=()):
    """A layer of torchgpipe or Pipe with skips, whose `forward` yields stash and pop commands."""

    class Layer(nn.Module):
        def forward(self, x):
            return forward(x)

    return skip.skippable(stash=stash, pop=pop)(Layer)()


def stash(*names):
    def forward(x):
        for name in names:
            yield skip.stash(name, x)
        return x

    return skippable(forward, stash=names)


def pop(*names):
    def forward(x):
        for name in names:
            x = x + (yield skip.pop(name))
        return x

    return skippable(forward, pop=names)


def two_stages(first, second):
    """A plain model of two functions, which are the stages of pipelining."""

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList([Function(first), Function(second)])

        def forward(self, x):
            x = self.stages[0](x)
            return self.stages[1](*x) if isinstance(x, tuple) else self.stages[1](x)

    return Plain()


def train_stages(first, second, meant=None, **settings):
    model = two_stages(first, second)
    meant = two_stages(first, meant or second)
    step_stage(model.stages[RANK], model, meant, **settings)


# ---------------------------------------------------------------- no mistake: the same numbers

@mistake("none")
def layers():
    train(two_layers())


@mistake("none")
def skips():
    if PEER == "pipelining":
        train_stages(lambda x: (x, x * 2), lambda x, level: x + level)
    else:
        train(nn.Sequential(stash("level"), pop("level")))


@mistake("none", "pipelining")
def traced_layers():
    traced(two_layers(), {"1": SplitPoint.BEGINNING})


# ---------------------------------------------------------------- children

@mistake("children")
def names_differ():
    one, two = linear(), linear()
    train(nn.Sequential(OrderedDict([("down", one), ("down", two)])), meant=nn.Sequential(one, two))


@mistake("children")
def names_are_one_segment():
    train(nn.Sequential(OrderedDict([("down.0", linear()), ("up", linear())])))


@mistake("children")
def names_are_not_empty():
    train(nn.Sequential(OrderedDict([("", linear()), ("up", linear())])))


@mistake("children")
def names_hide_no_method():
    train(nn.Sequential(OrderedDict([("train", linear()), ("up", linear())])))


@mistake("children")
def layers_are_owned():
    shared = linear()
    train(nn.Sequential(shared, shared))


@mistake("children")
def shared_layers_behind_an_alias():
    shared = linear()
    train(nn.Sequential(nn.Sequential(shared), nn.Sequential(shared)))


@mistake("children")
def models_with_devices_do_not_nest():
    one, two, three = linear(), linear(), linear()
    meant = copy.deepcopy(nn.Sequential(one, two, three))
    if PEER == "torchgpipe":
        inner = GPipe(nn.Sequential(one, two), [1, 1], devices=["cpu", "cpu"], chunks=2)
    elif PEER == "pipe":
        inner = Pipe(nn.Sequential(one, two), chunks=2)
    else:
        inner = PipelineStage(one, RANK, 2, torch.device("cpu"))
    train(nn.Sequential(inner, three), meant)


# ---------------------------------------------------------------- skips

@mistake("skips")
def popped_if_stashed():
    if PEER == "pipelining":
        train_stages(lambda x: (x, x * 2), lambda x, level: x)
    else:
        train(nn.Sequential(stash("level"), linear()))


@mistake("skips")
def stashed_if_popped():
    if PEER == "pipelining":
        train_stages(lambda x: x, lambda x, level: x + level)
    else:
        train(nn.Sequential(linear(), pop("level")))


@mistake("skips", "torchgpipe", "pipe")
def misspelt_pops_suggest_a_name():
    train(nn.Sequential(stash("level"), pop("levle")))


@mistake("skips")
def stashed_before_popped():
    if PEER == "pipelining":

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.decode, self.encode = linear(), linear()

            def forward(self, x):
                x = self.decode(x + level)
                level = self.encode(x)
                return level

        traced(Model(), {"encode": SplitPoint.BEGINNING})
    else:
        train(nn.Sequential(pop("level"), stash("level")))


@mistake("skips", "torchgpipe", "pipe")
def stashed_once():
    train(nn.Sequential(stash("level"), stash("level"), pop("level")), **three())


@mistake("skips", "torchgpipe", "pipe")
def stashed_once_by_a_layer():
    def forward(x):
        yield skip.stash("level", x)
        yield skip.stash("level", x * 2)
        return x

    second_counts = Function(lambda x: x + x * 2)
    train(nn.Sequential(skippable(forward, stash=["level", "level"]), pop("level")), meant=second_counts)


@mistake("skips", "torchgpipe", "pipe")
def popped_once():
    train(nn.Sequential(stash("level"), pop("level"), pop("level")), **three())


@mistake("skips", "torchgpipe", "pipe")
def popped_once_by_a_layer():
    train(nn.Sequential(stash("level"), pop("level", "level")))


@mistake("skips", "torchgpipe", "pipe")
def not_stashed_and_popped_by_one_layer():
    def forward(x):
        yield skip.stash("level", x)
        return x + (yield skip.pop("level"))

    train(nn.Sequential(skippable(forward, stash=["level"], pop=["level"]), linear()))


@mistake("skips", "torchgpipe", "pipe")
def arrays_keep_only_their_ends():
    train(nn.Sequential(*[stash("level") for _ in range(2)], pop("level")), **three())


@mistake("skips", "torchgpipe", "pipe")
def arrays_pop_nothing():
    train(nn.Sequential(stash("level"), *[pop("level") for _ in range(2)]), **three())


@mistake("skips", "torchgpipe", "pipe")
def skip_names_are_words():
    def keep(x):
        yield skip.stash("level", x)
        return x

    def take(x):
        return x + (yield skip.pop("level"))

    train(nn.Sequential(skippable(keep, stash="level"), skippable(take, pop="level")))


@mistake("skips", "torchgpipe", "pipe")
def skips_have_names():
    def take(x):
        return x + (yield skip.pop())

    train(nn.Sequential(stash("level"), skippable(take, pop=["level"])))


def three():
    """Settings for three layers in two partitions."""
    return {"balance": [1, 2]} if PEER == "torchgpipe" else {}


# ---------------------------------------------------------------- devices

def partition(layers, *balance, devices=None):
    """Splits a model by counts, by Pipe's own function."""
    model = nn.Sequential(*[linear() for _ in range(layers)])
    meant = copy.deepcopy(model)
    train(partition_model(model, list(balance), devices or ["cpu"] * len(balance)), meant)


@mistake("devices", "torchgpipe", "pipe")
def the_first_layer_has_one():
    if PEER == "torchgpipe":
        train(two_layers(), devices=["cpu"])
    else:
        pipe = Pipe(nn.Sequential(linear(), WithDevice(linear(), "meta")), chunks=2)
        report(f"the first layer is taken to be on {pipe.devices[0]}", when="never")


def on_device(device):
    if PEER == "torchgpipe":
        train(two_layers(), devices=["cpu", device])
    elif PEER == "pipe":
        train(nn.Sequential(linear(), WithDevice(linear(), device)))
    else:
        PipelineStage(linear(), RANK, 2, torch.device(device))


@mistake("devices")
def devices_are_readable():
    on_device("toaster")


@mistake("devices")
def misspelt_devices_suggest_one():
    on_device("gpu:0")


@mistake("devices", "pipe")
def one_device_in_device():
    split = linear()
    split.bias = nn.Parameter(torch.zeros(4, device="meta"))
    train(nn.Sequential(linear(), split))


@mistake("devices", "pipe")
def plain_fields_have_none():
    train(nn.Sequential(linear(), WithDevice(Config(), "cpu")))


@mistake("devices", "pipelining")
def plain_fields_open_no_stage():
    model = two_layers()
    model.config = Config()
    traced(model, {"config": SplitPoint.BEGINNING})


@mistake("devices", "torchgpipe", "pipe")
def single_layers_are_not_spread():
    if PEER == "torchgpipe":
        train(nn.Sequential(linear()))
    else:
        partition(1, 1, 1)


@mistake("devices", "torchgpipe", "pipe")
def counts_are_positive():
    if PEER == "torchgpipe":
        train(two_layers(), balance=[2, 0])
    else:
        partition(2, 2, 0)


@mistake("devices", "torchgpipe", "pipe")
def counts_add_up():
    if PEER == "torchgpipe":
        train(two_layers(), balance=[1, 2])
    else:
        partition(2, 1, 2)


@mistake("devices", "torchgpipe", "pipe")
def all_or_no_counts():
    if PEER == "torchgpipe":
        train(two_layers(), balance=[1, None])
    else:
        partition(2, 1, None)


@mistake("devices")
def no_device_is_left_over():
    if PEER == "torchgpipe":
        train(two_layers(), devices=["cpu"] * 3)
    elif PEER == "pipe":
        partition(2, 1, 1, devices=["cpu"] * 3)
    else:
        PipelineStage(linear(), 0, 1, torch.device("cpu"))


@mistake("devices")
def arrays_hold_layers():
    train(nn.Sequential(nn.Sequential(), linear()))


@mistake("devices", "torchgpipe", "pipelining")
def stages_need_devices():
    if PEER == "torchgpipe":
        train(two_layers(), devices=None)
    else:
        PipelineStage(linear(), RANK, 2)


@mistake("devices")
def the_first_layer_ends_no_stage():
    if PEER == "torchgpipe":
        train(two_layers(), balance=[0, 2])
    elif PEER == "pipe":
        partition(2, 0, 2)
    else:
        traced(two_layers(), {"0": SplitPoint.BEGINNING})


# ---------------------------------------------------------------- types

@mistake("types")
def fields_are_layers():
    train(nn.Sequential(linear(), Config()))


@mistake("types")
def functions_are_not_layers():
    train(nn.Sequential(linear(), torch.relu))


@mistake("types")
def layers_take_what_reaches_them():
    train(nn.Sequential(linear(), nn.Embedding(4, 4)))


@mistake("types")
def the_first_layer_takes_the_input():
    train(nn.Sequential(nn.Embedding(4, 4), linear()))


@mistake("types", "pipelining")
def the_last_layer_gives_the_output():
    rows = torch.empty(2, 4, device="meta")
    outputs = (rows, rows) if RANK == 1 else rows
    train(two_layers(), input_args=rows, output_args=outputs)


@mistake("types")
def popping_layers_take_a_tuple():
    if PEER == "pipelining":
        train_stages(lambda x: (x, x * 2), linear())
    else:
        train(nn.Sequential(stash("level"), skip.skippable(pop=["level"])(nn.Linear)(4, 4)))


@mistake("types", "pipelining")
def pops_are_in_order():
    train_stages(lambda x: (x, x * 2, x * 3), lambda x, b, a: x + a - b, meant=lambda x, a, b: x + a - b)


@mistake("types")
def popped_skips_fit():
    def keep(x):
        yield skip.stash("level", None)
        return x

    if PEER == "pipelining":
        train_stages(lambda x: (x, None), lambda x, level: x + level)
    else:
        train(nn.Sequential(skippable(keep, stash=["level"]), pop("level")))


@mistake("types")
def stashing_layers_return_a_tuple():
    if PEER == "pipelining":
        train_stages(linear(), lambda x, level: x + level)
    else:
        train(nn.Sequential(skip.skippable(stash=["level"])(nn.Linear)(4, 4), pop("level")))


@mistake("types")
def stashes_are_counted():
    def keep(x):
        yield skip.stash("level", x)
        yield skip.stash("more", x)
        return x

    if PEER == "pipelining":
        train_stages(lambda x: (x, x * 2, x * 3), lambda x, level: x + level)
    else:
        train(nn.Sequential(skippable(keep, stash=["level"]), pop("level")))


@mistake("types")
def values_that_cross_flow():
    train(nn.Sequential(Function(Opaque), Function(lambda x: x.tensor)))


@mistake("types")
def skips_that_cross_flow():
    def keep(x):
        yield skip.stash("note", Opaque(x))
        return x

    def take(x):
        return x + (yield skip.pop("note")).tensor

    if PEER == "pipelining":
        train_stages(lambda x: (x, Opaque(x)), lambda x, note: x + note.tensor)
    else:
        train(nn.Sequential(skippable(keep, stash=["note"]), skippable(take, pop=["note"])))


@mistake("types")
def inputs_flow():
    global INPUT
    INPUT = Opaque(INPUT)
    train(nn.Sequential(Function(lambda x: x.tensor), linear()))


@mistake("types")
def outputs_flow():
    train(nn.Sequential(linear(), Function(Opaque)))


@mistake("types", "torchgpipe", "pipe")
def layers_are_send():
    local = threading.local()
    local.factor = 2
    train(nn.Sequential(linear(), Function(lambda x: x * local.factor)), meant=nn.Identity())


@mistake("types")
def repeated_layers_take_what_they_give():
    train(nn.Sequential(*[linear(4, 8) for _ in range(2)]))


# ---------------------------------------------------------------- settings

@mistake("settings")
def no_unknown_settings():
    if PEER == "torchgpipe":
        GPipe(two_layers(), [1, 1], devices=["cpu", "cpu"], chunk=8)
    elif PEER == "pipe":
        Pipe(two_layers(), chunk=8)
    else:
        ScheduleGPipe(PipelineStage(linear(), RANK, 2, torch.device("cpu")), microbatches=8)


@mistake("settings")
def settings_are_set_once():
    read("(model, chunks=4, chunks=8)")


@mistake("settings")
def settings_are_separated():
    read("(model chunks=4)")


def read(arguments):
    eval({"torchgpipe": "GPipe", "pipe": "Pipe", "pipelining": "ScheduleGPipe"}[PEER] + arguments)


@mistake("settings")
def settings_have_values():
    train(two_layers(), chunks=None)


@mistake("settings", "torchgpipe")
def settings_have_names():
    GPipe(two_layers(), [1, 1], 8)


@mistake("settings")
def chunks_are_positive():
    train(two_layers(), chunks=0)


@mistake("settings", "torchgpipe", "pipe")
def checkpoint_is_known():
    train(two_layers(), checkpoint="sometimes")


@mistake("settings", "pipelining")
def schedule_is_known():
    get_schedule_class("gpip")


@mistake("settings", "pipelining")
def stages_are_spread_evenly():
    looped("ZBVZeroBubble", [RANK], chunks=4)


@mistake("settings", "pipelining")
def chunks_fill_the_pipeline():
    looped("DualPipeV", [RANK, 3 - RANK], chunks=3)


@mistake("settings", "pipelining")
def chunks_make_equal_rounds():
    looped("Interleaved1F1B", [RANK, RANK + 2], chunks=5)


def looped(name, numbers, chunks):
    """Builds a schedule with several stages per rank. `numbers` are this rank's stages."""
    stages = [PipelineStage(linear(), number, 2 * len(numbers), CPU) for number in numbers]
    get_schedule_class(name)(stages, chunks)


# ---------------------------------------------------------------- form

@mistake("form")
def only_structs():
    if PEER == "pipelining":
        step_stage(torch.relu, nn.Module(), meant=torch.relu)
    else:
        train(torch.relu, meant=torch.relu)


@mistake("form")
def structs_have_named_fields():
    layers = [linear(), linear()]
    if PEER == "pipelining":
        step_stage(layers, nn.Module(), meant=nn.Sequential(*layers))
    else:
        train(layers)


@mistake("form")
def one_pipeline_attribute():
    if PEER == "torchgpipe":
        train(GPipe(two_layers(), [1, 1], devices=["cpu", "cpu"]))
    elif PEER == "pipe":
        train(Pipe(two_layers()), meant=two_layers())
    else:
        ScheduleGPipe(ScheduleGPipe(PipelineStage(linear(), RANK, 2, torch.device("cpu")), 2), 4)


@mistake("form", "torchgpipe", "pipe")
def marks_stand_on_fields():
    if PEER == "torchgpipe":
        GPipe(two_layers(), [1, 1], devices=["cpu", "cpu"]).to("cpu")
    else:
        Pipe(two_layers()).to("cpu")


@mistake("form")
def attributes_are_known():
    if PEER == "pipelining":
        traced(two_layers(), {"1": SplitPoint.START})
    else:
        skip.skippable(stach=["level"])


@mistake("form", "torchgpipe", "pipe")
def attributes_stand_once():
    class Layer(nn.Module):
        def forward(self, x):
            yield skip.stash("a", x)
            yield skip.stash("b", x)
            return x

    layer = skip.skippable(stash=["a"])(skip.skippable(stash=["b"])(Layer))()
    train(nn.Sequential(layer, pop("a", "b")))


@mistake("form")
def attributes_take_arguments():
    if PEER == "pipelining":
        traced(two_layers(), {"1": None})
    else:
        skip.skippable(nn.Linear)


@mistake("form", "torchgpipe", "pipe")
def lists_are_not_empty():
    def keep(x):
        yield skip.stash("level", x)
        return x

    train(nn.Sequential(skippable(keep, stash=[]), linear()))


@mistake("form", "torchgpipe", "pipe")
def lists_are_separated():
    train(nn.Sequential(stash("a", "b"), pop("a" "b")))


@mistake("form")
def layer_names_are_strings():
    train(nn.Sequential(OrderedDict([(1, linear()), (2, linear())])))


@mistake("form", "torchgpipe", "pipe")
def unreadable_attributes_hide_nothing():
    train(nn.Sequential(stash("level"), linear()), chunks="eight", checkpoint="sometimes")


@mistake("form")
def arrays_say_how_they_run():
    train(nn.Sequential(linear(), nn.ModuleList([linear(), linear()])))


# ---------------------------------------------------------------- warnings

@mistake("warnings", ranks=1)
def single_stage():
    model = two_layers()
    if PEER == "torchgpipe":
        train(model, balance=[2])
    elif PEER == "pipe":
        train(nn.Sequential(model), copy.deepcopy(model))
    else:
        step_stage(model, model, meant=copy.deepcopy(model), stages=1)


@mistake("warnings", "torchgpipe", "pipe")
def short_skip():
    train(nn.Sequential(stash("level"), pop("level")))


@mistake("warnings", "torchgpipe", "pipe")
def except_last_of_one_chunk():
    train(two_layers(), chunks=1, checkpoint="except_last")


if __name__ == "__main__":
    main()
