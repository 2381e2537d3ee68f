"""Runs torch.distributed.pipelining over Gloo, with one process per stage. The first process answers
xtask.

A step begins when all processes are ready and ends when the last one has finished. All processes
read the same clock.
"""

import os
import tempfile
import time

import contender
import models
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


class Keeping(nn.Module):
    """Layers whose skips are additional outputs and inputs: pipelining has no other skips."""

    def __init__(self, layers, kept, leaving, reaching):
        super().__init__()
        self.layers = nn.Sequential(layers)
        self.kept, self.leaving, self.reaching = kept, leaving, reaching

    def forward(self, x, *skips):
        for name, skip in zip(self.reaching, skips):
            if skip.requires_grad:
                # The gradients of a concatenation are strided, which newer versions refuse to send.
                skip.register_hook(torch.Tensor.contiguous)
            self.kept[name] = skip
        x = self.layers(x)
        return (x, *(self.kept.pop(name) for name in self.leaving)) if self.leaving else x


class Stash(nn.Module):
    def __init__(self, kept, name):
        super().__init__()
        self.kept, self.name = kept, name

    def forward(self, x):
        self.kept[self.name] = x
        return x


class PopConcat(Stash):
    def forward(self, x):
        return torch.cat([x, self.kept.pop(self.name)], 1)


class Reading(nn.Module):
    """Layers that read what does not depend on the input. Pipelining cannot lend it to them: the stage
    has it, its parts as keyword arguments of a step, or gets it from the one before beside `x`."""

    def __init__(self, layers, mask, hands_on):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.register_buffer("mask", mask)
        self.hands_on = hands_on

    def forward(self, x, *reached, **parts):
        read = reached or (self.mask, *parts.values())
        for layer in self.layers.values():
            if isinstance(layer, models.Own):
                mask, memory = read
                read = mask, layer(memory)
            else:
                x = layer(x, *read) if isinstance(layer, models.Reader) else layer(x)
        return (x, *read) if self.hands_on else x


class Rank:
    """The part of one process: its stage, and the steps that it runs together with the others."""

    def __init__(self, args, rank, meeting_point):
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=args.stages)
        kept = {}
        skips = models.Skips(lambda name: Stash(kept, name), lambda name: PopConcat(kept, name))
        self.task = models.make(args, skips)
        layers = list(self.task.layers.items())
        first = sum(self.task.balance[:rank])
        own = layers[first : first + self.task.balance[rank]]
        fixed = self.task.fixed
        has_parts = fixed and (rank == 0 or not fixed.handed)
        self.parts = fixed.parts if has_parts else {}
        if fixed:
            hands_on = fixed.handed and rank < args.stages - 1
            module = Reading(models.OrderedDict(own), fixed.mask if has_parts else None, hands_on)
        else:
            made, used = ({layer.name for _, layer in own if type(layer) is kind} for kind in (Stash, PopConcat))
            leaving, reaching = sorted(made - used), sorted(used - made)
            module = Keeping(models.OrderedDict(own), kept, leaving, reaching)
        self.parameters = list(module.parameters())
        stage = PipelineStage(module, rank, args.stages, torch.device("cpu"))
        self.schedule = SCHEDULES[args.schedule](stage, args.chunks, loss_fn=self.task.loss)
        self.is_first, self.is_last = stage.is_first, stage.is_last
        self.optimizer = contender.optimizer(self.parameters) if args.way == "iteration" else None

    def step(self):
        inputs = [self.task.input] if self.is_first else []
        targets = {"target": self.task.target, "losses": []} if self.is_last else {}
        contender.drop_gradients(self.parameters)
        distributed.barrier()
        start = time.perf_counter()
        self.schedule.step(*inputs, **self.parts, **targets)
        if self.optimizer:
            self.update()
        end = time.perf_counter()
        loss = torch.stack(targets["losses"]).mean().item() if self.is_last else 0.0
        return start, end, loss

    def update(self):
        """Clips by the norm over all ranks, and updates."""
        square = torch.nn.utils.get_total_norm(p.grad for p in self.parameters).square()
        distributed.all_reduce(square)
        torch.nn.utils.clip_grads_with_norm_(self.parameters, contender.CLIP, square.sqrt())
        self.optimizer.step()

    def squares(self):
        norm = contender.parameter_norm if self.optimizer else contender.gradient_norm
        return norm(self.parameters) ** 2


def follow(args, rank, meeting_point, requests):
    """Runs steps in another process, as the first one requests."""
    own = Rank(args, rank, meeting_point)
    while requests.recv():
        requests.send((*own.step(), own.squares()))


def main():
    args = contender.arguments()
    meeting_point = "file://" + os.path.join(tempfile.mkdtemp(), "gloo")
    context = multiprocessing.get_context("spawn")
    others = []
    for rank in range(1, args.stages):
        here, there = context.Pipe()
        context.Process(target=follow, args=(args, rank, meeting_point, there), daemon=True).start()
        others.append(here)
    own = Rank(args, 0, meeting_point)
    answers = []

    def step():
        for other in others:
            other.send(True)
        answers[:] = [(*own.step(), own.squares())] + [other.recv() for other in others]
        starts, ends, losses, _ = zip(*answers)
        return (max(ends) - min(starts)) * 1e3, sum(losses)

    checked = contender.CHECKED_ITERATIONS if args.way == "iteration" else 1
    contender.serve(step, lambda: sum(squares for *_, squares in answers) ** 0.5, lambda: None, checked)
    for other in others:
        other.send(False)


if __name__ == "__main__":
    main()
