"""Noticing that another process has ended, whatever this one waits for."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

__all__ = ["Watch"]

# A process whose host is not stuck ends by itself and in order, within this time.
_GRACE_S = 10.0


class Watch:
    """Ends this process if it still waits when another one has ended.

    The first process listens to all others and these to it, on connections that carry
    nothing but a farewell: one that breaks tells at once that its process is gone,
    while the main thread may wait for a GPU that waits for the other one's.

    Args:
        rank: number of this process.
        size: number of all.
        lost: called when another one has ended.
        say: tells what is known of it.
    """

    def __init__(
        self, rank: int, size: int, *, lost: Callable[[], None], say: Callable[[], str]
    ) -> None:
        self._lost, self._say = lost, say
        self._group = dist.new_group(backend="gloo", timeout=timedelta(days=365))
        self._left = threading.Event()
        self._others = range(1) if rank else range(1, size)
        self._threads = [
            threading.Thread(target=self._listen, args=(other,), daemon=True)
            for other in self._others
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, other: int) -> None:
        try:
            dist.recv(torch.empty(1), src=other, group=self._group)
        except RuntimeError:
            self._lost()
            if not self._left.wait(_GRACE_S):
                print(f"error: {self._say()}", file=sys.stderr, flush=True)  # noqa: T201  no other way out
                os._exit(1)

    def end(self, *, in_order: bool) -> None:
        """Watch no more.

        Args:
            in_order: say farewell and wait for that of the others; not if one failed.
        """
        self._left.set()
        if not in_order:
            return
        try:
            for other in self._others:
                dist.send(torch.zeros(1), dst=other, group=self._group)
        except RuntimeError:  # it has ended, as the thread that listens will notice
            pass
        for thread in self._threads:
            thread.join()
