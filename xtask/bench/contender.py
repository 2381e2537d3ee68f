"""The part that all contenders in Python share: reads the arguments, then answers `check` and
`turn N`, which `xtask/programs/src/bin/bench/main.rs` describes.
"""

import argparse
import sys
import time
import warnings

warnings.simplefilter("ignore")  # numpy is not needed, and the peers' deprecations are known

import torch


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=1)
    parser.add_argument("--checkpoint", default="never")
    parser.add_argument("--schedule", default="gpipe")
    # The number of blocks of each stage of a GPT in `torch.utils.checkpoint`.
    parser.add_argument("--recompute", type=int, default=0)
    torch.set_num_threads(1)
    return parser.parse_args()


def timed(step):
    """A step that returns its milliseconds and its loss."""

    def run():
        start = time.perf_counter()
        loss = step()
        return (time.perf_counter() - start) * 1e3, loss.item()

    return run


def gradient_norm(parameters):
    return sum(parameter.grad.double().square().sum().item() for parameter in parameters) ** 0.5


def drop_gradients(parameters):
    for parameter in parameters:
        parameter.grad = None


# The settings of all optimizers, as in `xtask/programs/src/bin/bench/ways.rs`.
CLIP = 1.0
CHECKED_ITERATIONS = 20


def optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, fused=True)


def parameter_norm(parameters):
    return sum(parameter.detach().double().square().sum().item() for parameter in parameters) ** 0.5


def serve(step, norm, between, checked=1):
    """Answers requests until `end`, or the end of the input. `between` runs before each step,
    untimed. A check runs `checked` steps."""
    print("ready", flush=True)
    for line in sys.stdin:
        request = line.split()
        if request == ["end"]:
            break
        between()
        milliseconds, loss = step()
        if request == ["check"]:
            for _ in range(checked - 1):
                milliseconds, loss = step()
            print(loss, norm(), flush=True)
            continue
        times = []
        for _ in range(int(request[1])):
            between()
            milliseconds, loss = step()
            times.append(milliseconds)
        print(*times, loss, flush=True)
