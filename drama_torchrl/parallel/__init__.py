"""One training run on several processes, each with its share of every batch.

A process has all networks and all of the replay; it trains on its rows of each batch.
What a mean over the batch is computed from is combined over the processes, so that they
train as one process would: :func:`all_sum`, :func:`all_mean` and :func:`pool_moments`.
Outside :func:`processes` there is one process, and they return what they are given.

Each process differentiates the *sum* of all processes' losses with respect to its own
numbers: the gradient of :func:`all_sum` is the sum of all gradients. The mean of the
processes' gradients is then that of the mean of their losses.
"""

from drama_torchrl.parallel.exchange import (
    all_mean,
    all_sum,
    gather,
    my_share,
    pool_moments,
    tell,
)
from drama_torchrl.parallel.membership import (
    ProcessFailedError,
    abandon,
    before_leaving,
    connect,
    leave,
    local_rank,
    local_size,
    processes,
    rank,
    size,
)

__all__ = [
    "ProcessFailedError",
    "abandon",
    "all_mean",
    "all_sum",
    "before_leaving",
    "connect",
    "gather",
    "leave",
    "local_rank",
    "local_size",
    "my_share",
    "pool_moments",
    "processes",
    "rank",
    "size",
    "tell",
]
