"""Several processes on this machine that run one function together.

On CPUs they are forked from a server that has imported everything and computed nothing:
importing anew would take most of the time. A driver of GPUs does not survive a fork.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed import TCPStore
from torch.utils._pytree import tree_map_only

from drama_torchrl.parallel import processes

_IMPORTED = ["recipes.drama_atari100k", "tests.reference.stopping"]
_STDERR = 2


def run_together(
    function: Callable[..., Any], *arguments: Any, count: int = 2, device: str = "cpu"
) -> list[Any]:
    """Returns by process what ``function`` returned, or how it ended instead."""
    context: ForkServerContext | SpawnContext = mp.get_context("spawn")
    if device == "cpu":
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
    results: Queue[tuple[int, Any]] = context.Queue()
    # As torchrun does: what a process that failed has said there outlives it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    # Theirs would be what this process's was when the server started.
    with Connection(os.dup(_STDERR), readable=False) as stderr:
        members = [
            context.Process(
                target=_member,
                args=(rank, count, port, device, stderr, results, function, arguments),
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
    stderr: Connection,
    results: Queue[tuple[int, Any]],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.dup2(stderr.fileno(), _STDERR)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
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
