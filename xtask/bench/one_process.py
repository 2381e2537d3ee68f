"""Runs torchgpipe (`--way torchgpipe`, or `--way iteration` for whole training iterations) or
`torch.distributed.pipeline.sync.Pipe` of torch 2.3 (`--way pipe`).
"""

import os
import tempfile

import contender
import models
import torch
from torch import nn


def torchgpipe():
    from torchgpipe import GPipe, skip

    def wrap(task, args):
        devices = ["cpu"] * len(task.balance)
        return GPipe(
            nn.Sequential(task.layers), task.balance, devices=devices, chunks=args.chunks, checkpoint=args.checkpoint
        )

    return skip, wrap


def pipe():
    from torch.distributed import rpc
    from torch.distributed.pipeline.sync import Pipe, skip

    # `Pipe` returns a remote reference, even in this process.
    meeting_point = "file://" + os.path.join(tempfile.mkdtemp(), "rpc")
    options = rpc.TensorPipeRpcBackendOptions(init_method=meeting_point)
    rpc.init_rpc("worker", rank=0, world_size=1, rpc_backend_options=options)

    def wrap(task, args):
        layers = list(task.layers.values())
        stages = [nn.Sequential(*(layers.pop(0) for _ in range(count))) for count in task.balance]
        model = Pipe(nn.Sequential(*stages), chunks=args.chunks, checkpoint=args.checkpoint)
        model.local = lambda x: model(x).local_value()
        return model

    return skip, wrap


def skips(library):
    """Layers that stash and pop, made in the way that both libraries share."""

    def stash(name):
        @library.skippable(stash=[name])
        class Stash(nn.Module):
            def forward(self, x):
                yield library.stash(name, x)
                return x

        return Stash()

    def pop_concat(name):
        @library.skippable(pop=[name])
        class PopConcat(nn.Module):
            def forward(self, x):
                kept = yield library.pop(name)
                return torch.cat([x, kept], 1)

        return PopConcat()

    return models.Skips(stash, pop_concat)


def main():
    args = contender.arguments()
    library, wrap = {"torchgpipe": torchgpipe, "iteration": torchgpipe, "pipe": pipe}[args.way]()
    task = models.make(args, skips(library))
    model = wrap(task, args)
    parameters = list(model.parameters())
    forward = getattr(model, "local", model)

    def step():
        loss = task.loss(forward(task.input), task.target)
        loss.backward()
        return loss

    def iteration():
        optimizer.zero_grad()
        loss = step()
        # The threads that run the stages are idle now.
        torch.set_num_threads(args.stages)
        torch.nn.utils.clip_grad_norm_(parameters, contender.CLIP)
        optimizer.step()
        torch.set_num_threads(1)
        return loss

    if args.way == "iteration":
        optimizer = contender.optimizer(parameters)
        contender.serve(
            contender.timed(iteration),
            lambda: contender.parameter_norm(parameters),
            lambda: None,
            contender.CHECKED_ITERATIONS,
        )
    else:
        contender.serve(
            contender.timed(step),
            lambda: contender.gradient_norm(parameters),
            lambda: contender.drop_gradients(parameters),
        )
    # This skips torch's rpc, which would make Python wait at its end.
    os._exit(0)


main()
