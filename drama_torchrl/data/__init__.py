"""Replay: which stored windows the world model and the policy learn from."""

from __future__ import annotations

from drama_torchrl.data.dfs_sampler import (
    DFSImaginationSampler as DFSImaginationSampler,
)
from drama_torchrl.data.dfs_sampler import DFSSampler as DFSSampler
from drama_torchrl.data.dfs_sampler import UniformWindowSampler as UniformWindowSampler
from drama_torchrl.data.visit_counts import VisitCounts as VisitCounts

__all__ = [
    "DFSImaginationSampler",
    "DFSSampler",
    "UniformWindowSampler",
    "VisitCounts",
]
