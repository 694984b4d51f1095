"""Several processes on this machine that run one function together, through gloo."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor
from torch.utils._pytree import tree_map_only

from drama_torchrl.parallel import processes


def run_together(
    function: Callable[..., Any], *arguments: Any, count: int = 2, device: str = "cpu"
) -> list[Any]:
    """Returns by process what ``function`` returned, or how it ended instead."""
    context = mp.get_context("spawn")
    results: Queue[tuple[int, Any]] = context.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    members = [
        context.Process(
            target=_member,
            args=(rank, count, port, device, results, function, arguments),
            daemon=True,
        )
        for rank in range(count)
    ]
    for member in members:
        member.start()
    found: dict[int, Any] = {}
    end = time.monotonic() + 300
    while len(found) < count and time.monotonic() < end:
        codes = {rank: member.exitcode for rank, member in enumerate(members)}
        try:
            rank, result = results.get(timeout=0.5)
            found[rank] = result
        except Empty:
            ended = {r: f"exit code {c}" for r, c in codes.items() if c is not None}
            found = ended | found
    for member in members:
        member.join(60)
    assert not any(member.is_alive() for member in members)
    return [found[rank] for rank in range(count)]


def _member(
    rank: int,
    count: int,
    port: int,
    device: str,
    results: Queue[tuple[int, Any]],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        with processes(torch.device(device)):
            result = function(*arguments)
    except SystemExit:
        result = "exited"
    except Exception as error:
        traceback.print_exc()
        result = f"{type(error).__name__}: {error}"
    # As arrays, whole: tensors would be shared with a process that ends.
    results.put((rank, tree_map_only(Tensor, lambda x: x.cpu().numpy(), result)))
