"""Samplers keep their word whatever is written, drawn, emptied, saved and loaded."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tensordict import TensorDict
from torchrl.data import (
    ImmutableDatasetWriter,
    LazyTensorStorage,
    TensorDictReplayBuffer,
)

from drama_torchrl.data import (
    DFSImaginationSampler,
    DFSSampler,
    UniformWindowSampler,
    VisitCounts,
)

END = ("next", "done")
VIEWS = ("model", "imagination", "whole_episodes")
WINDOWS = {"model": 3, "imagination": 2, "whole_episodes": 3}


class Buffers:
    """Three views of one storage."""

    def __init__(self, capacity: int) -> None:
        self.counts = VisitCounts()
        storage = LazyTensorStorage(capacity)
        self.model = TensorDictReplayBuffer(
            storage=storage,
            sampler=DFSSampler(self.counts, window=3, temperature=1.0),
        )
        self.imagination = TensorDictReplayBuffer(
            storage=storage,
            sampler=DFSImaginationSampler(self.counts, window=2, ratio=2.0),
            writer=ImmutableDatasetWriter(),
        )
        self.whole_episodes = TensorDictReplayBuffer(
            storage=storage,
            sampler=UniformWindowSampler(window=3, episode_end_key=END),
            writer=ImmutableDatasetWriter(),
        )


def copy_by_state_dict(source: Buffers, target: Buffers) -> None:
    target.model.load_state_dict(source.model.state_dict())
    for view in VIEWS[1:]:
        state = getattr(source, view).sampler.state_dict()
        getattr(target, view).sampler.load_state_dict(state)


def copy_by_file(source: Buffers, target: Buffers) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # torchrl misses the cursor that it did not restore; the samplers have it.
        warnings.filterwarnings("ignore", "last_cursor is None")
        source.model.dumps(Path(folder, "buffer"))
        target.model.loads(Path(folder, "buffer"))
        for view in VIEWS[1:]:
            getattr(source, view).sampler.dumps(Path(folder, view))
            getattr(target, view).sampler.loads(Path(folder, view))


class SamplerMachine(RuleBasedStateMachine):
    """What is stored is known: times that count up, and how often each was a start."""

    @initialize(capacity=st.integers(3, 9), seed=st.integers(0, 99))
    def make(self, capacity: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.capacity = capacity
        self.buffers = Buffers(capacity)
        self.time = 0
        self.stored: list[int] = []  # oldest first
        self.ends: set[int] = set()
        self.visits = {"model": Counter[int](), "imagination": Counter[int]()}

    @rule(number=st.integers(1, 12), end=st.integers(0, 12))
    def extend(self, number: int, end: int) -> None:
        number = min(number, self.capacity)
        times = range(self.time, self.time + number)
        self.time += number
        self.ends |= {self.time - end} & {*times}
        done = torch.tensor([[time in self.ends] for time in times])
        self.buffers.model.extend(
            TensorDict({"time": torch.tensor(times), "next": {"done": done}}, [number])
        )
        self.stored = [*self.stored, *times][-self.capacity :]
        for visits in self.visits.values():
            for time in {*visits} - {*self.stored}:
                del visits[time]

    @rule(view=st.sampled_from(VIEWS), batch_size=st.integers(1, 6))
    def sample(self, view: str, batch_size: int) -> None:
        window, buffer = WINDOWS[view], getattr(self.buffers, view)
        starts = {
            self.stored[at]
            for at in range(len(self.stored) - window + 1)
            if view != "whole_episodes"
            or not self.ends & {*self.stored[at : at + window - 1]}
        }
        if len(starts) < batch_size:
            with pytest.raises(RuntimeError):
                buffer.sample(batch_size)
            return
        drawn = buffer.sample(batch_size)
        times = drawn["time"]
        assert times.shape == (batch_size, window)
        assert (times.diff(dim=1) == 1).all()
        first = times[:, 0].tolist()
        assert len(set(first)) == batch_size
        assert {*first} <= starts
        if view in self.visits:
            self.visits[view].update(first)

    @rule()
    def empty(self) -> None:
        self.buffers.model.empty()
        self.stored = []
        for visits in self.visits.values():
            visits.clear()

    @rule(
        copy=st.sampled_from([copy_by_state_dict, copy_by_file]),
        used=st.integers(0, 12),
    )
    def save_and_load(
        self, copy: Callable[[Buffers, Buffers], None], used: int
    ) -> None:
        if not self.stored:  # torchrl saves no storage that was never written
            return
        other = Buffers(self.capacity)
        if used:
            used = min(used, self.capacity)
            done = torch.zeros(used, 1, dtype=torch.bool)
            records = {"time": -10 - torch.arange(used), "next": {"done": done}}
            other.model.extend(TensorDict(records, [used]))
        copy(self.buffers, other)
        self.buffers = other

    @invariant()
    def the_counts_are_those_of_the_records(self) -> None:
        for name, visits in self.visits.items():
            table = getattr(self.buffers.counts, name)
            assert int(table.sum()) == visits.total()
            if self.stored:
                times = self.buffers.model.storage.get(slice(None))["time"].tolist()
                assert sorted(times) == sorted(self.stored)
                found = {t: n for t, n in zip(times, table.tolist(), strict=False) if n}
                assert found == dict(visits)


SamplerMachine.TestCase.settings = settings(
    settings.get_profile("repeatable"), max_examples=150, stateful_step_count=20
)
TestSamplers = SamplerMachine.TestCase
