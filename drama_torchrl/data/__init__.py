"""Replay: which stored windows the world model and the policy learn from."""

from drama_torchrl.data.dfs_sampler import DFSImaginationSampler, DFSSampler
from drama_torchrl.data.host_storage import HostStorage
from drama_torchrl.data.unblocked import UnblockedReplayBuffer
from drama_torchrl.data.visit_counts import RingCursor, VisitCounts
from drama_torchrl.data.window_sampler import UniformWindowSampler

__all__ = [
    "DFSImaginationSampler",
    "DFSSampler",
    "HostStorage",
    "RingCursor",
    "UnblockedReplayBuffer",
    "UniformWindowSampler",
    "VisitCounts",
]
