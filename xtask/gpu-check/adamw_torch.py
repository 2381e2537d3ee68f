"""The iteration of `gpu_check/optimizer.rs` in PyTorch: 2 x Linear(1024), 32 rows in four
micro-batches, clipping by norm and fused AdamW. Prints, as JSON, the median milliseconds of an
iteration, and those that the host spends in clipping and the optimizer.

    python adamw_torch.py cuda:0 20
"""

import json
import statistics
import sys
import time

import torch
from torch import nn

WIDTH = 1024
ROWS = 32
CHUNKS = 4


def main(device, measurements):
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.arange(ROWS * WIDTH, dtype=torch.float32, device=device).cos().view(ROWS, WIDTH)
    iterations, updates = [], []
    for number in range(measurements + 3):
        wait()
        start = time.perf_counter()
        optimizer.zero_grad()
        for part in x.chunk(CHUNKS):
            (nn.functional.mse_loss(model(part), part) / CHUNKS).backward()
        before = time.perf_counter()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        after = time.perf_counter()
        wait()
        if number >= 3:
            iterations.append(time.perf_counter() - start)
            updates.append(after - before)
    print(json.dumps({
        "iteration_ms": statistics.median(iterations) * 1e3,
        "update_host_ms": statistics.median(updates) * 1e3,
    }))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
