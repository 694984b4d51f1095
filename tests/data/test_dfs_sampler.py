"""Draws follow the closed form; windows are whole; every state comes back."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from tensordict import TensorDict
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.data import (
    ImmutableDatasetWriter,
    LazyMemmapStorage,
    LazyTensorStorage,
    ReplayBuffer,
    TensorDictReplayBuffer,
)
from torchrl.data.replay_buffers import Sampler

from drama_torchrl.data import (
    DFSImaginationSampler,
    DFSSampler,
    RingCursor,
    UniformWindowSampler,
    VisitCounts,
)
from drama_torchrl.data.dfs_sampler import imagination_log_weights, model_log_weights
from drama_torchrl.data.window_starts import (
    draw_starts,
    fill_incomplete,
    uninterrupted_windows,
)

WINDOW = 3
END = ("next", "done")

SAMPLERS = {
    "model": lambda **kwargs: DFSSampler(VisitCounts(), **kwargs),
    "imagination": lambda **kwargs: DFSImaginationSampler(VisitCounts(), **kwargs),
    "uniform": UniformWindowSampler,
}
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


def records(
    start: int, stop: int, ends: Iterator[int] | range = range(0)
) -> TensorDict:
    """Records of the times start … stop − 1; episodes end at the times ``ends``."""
    time = torch.arange(start, stop)
    done = torch.isin(time, torch.tensor(list(ends), dtype=torch.long))
    return TensorDict({"time": time, "next": {"done": done[:, None]}}, [stop - start])


def make_buffer(
    sampler: Sampler, capacity: int, **kwargs: Any
) -> TensorDictReplayBuffer:
    return TensorDictReplayBuffer(
        storage=LazyTensorStorage(capacity), sampler=sampler, **kwargs
    )


RATIO = 1.5


class Pair:
    """Two buffers over one storage, as world-model and behaviour training use it."""

    def __init__(self, capacity: int, *, temperature: float = 10.0) -> None:
        self.counts = VisitCounts()
        kwargs: dict[str, Any] = {"window": WINDOW, "temperature": temperature}
        self.model = make_buffer(DFSSampler(self.counts, **kwargs), capacity)
        self.imagination = TensorDictReplayBuffer(
            storage=self.model.storage,
            sampler=DFSImaginationSampler(self.counts, ratio=RATIO, **kwargs),
            writer=ImmutableDatasetWriter(),
        )
        self.time = 0

    def write(self, number: int) -> None:
        self.model.extend(records(self.time, self.time + number))
        self.time += number

    def starts(self, name: str, batch_size: int) -> list[int]:
        """Slots of the starts of one batch."""
        index = getattr(self, name).sample(batch_size)["index"]
        return index[:, 0].tolist()


def probabilities(
    visits: dict[str, list[int]], newest: int, temperature: float
) -> dict[str, dict[int, float]]:
    """Closed form for the slots of a full ring that may start a window."""
    size = len(visits["model"])
    allowed = [(newest + 1 + k) % size for k in range(size - WINDOW + 1)]
    exponents = {
        "model": lambda v, b: -v,
        "imagination": lambda v, b: min(0.0, v - b / RATIO),
    }
    result = {}
    for name, exponent in exponents.items():
        weights = {
            slot: math.exp(
                exponent(visits["model"][slot], visits["imagination"][slot])
                / temperature
            )
            for slot in allowed
        }
        total = sum(weights.values())
        result[name] = {slot: weight / total for slot, weight in weights.items()}
    return result


def random_history(seed: int) -> tuple[Pair, dict[str, dict[int, float]]]:
    """A pair after random writes and draws over its wrap, and its closed form."""
    capacity, choose = 10, random.Random(seed)
    pair = Pair(capacity, temperature=1e6)  # visits that differ, so that weights do
    visits = {"model": [0] * capacity, "imagination": [0] * capacity}
    pair.write(capacity)
    for _ in range(80):
        if choose.random() < 0.1:
            number = choose.randint(1, 4)
            for time in range(pair.time, pair.time + number):
                visits["model"][time % capacity] = 0
                visits["imagination"][time % capacity] = 0
            pair.write(number)
        else:
            name = choose.choice(["model", "imagination", "imagination"])
            for start in pair.starts(name, choose.randint(1, 4)):
                visits[name][start] += 1
    assert pair.counts.model.tolist() == visits["model"]
    assert pair.counts.imagination.tolist() == visits["imagination"]
    for buffer in (pair.model, pair.imagination):
        buffer.sampler.temperature = 1.0
    exact = probabilities(visits, (pair.time - 1) % capacity, temperature=1.0)
    for p in exact.values():
        assert max(p.values()) > 2 * min(p.values())
    return pair, exact


def first_starts(pair: Pair, name: str, batch_size: int, draws: int) -> Iterator[Any]:
    """Starts of many batches, each drawn with the same counts."""
    sampler, storage = getattr(pair, name).sampler, pair.model.storage
    before = pair.counts.state_dict()
    for _ in range(draws):
        index, _ = sampler.sample(storage, batch_size)
        yield tuple(index[:, 0].tolist())
        pair.counts.load_state_dict(before)


def p_value(observed: Counter, expected: dict[Any, float]) -> float:
    """Chi-square test; outcomes expected fewer than 5 times are taken together."""
    assert set(observed) <= set(expected)
    groups: dict[Any, list[float]] = {}
    for outcome, number in expected.items():
        group = groups.setdefault("rare" if number < 5 else outcome, [0.0, 0.0])
        group[0] += observed[outcome]
        group[1] += number
    return float(chisquare(*zip(*groups.values(), strict=True)).pvalue)


# --- What is drawn ---------------------------------------------------------------


def test_model_log_weights_fall_with_the_draws_for_the_model() -> None:
    log_weights = model_log_weights(torch.tensor([0, 5, 30000]), temperature=10.0)
    torch.testing.assert_close(log_weights, torch.tensor([0.0, -0.5, -3000.0]))


def test_imagination_log_weights_fall_where_imagination_leads_the_model() -> None:
    model, imagination = torch.tensor([0, 0, 3, 1]), torch.tensor([0, 64, 64, 320])
    log_weights = imagination_log_weights(model, imagination, 64.0, 10.0)
    torch.testing.assert_close(log_weights, torch.tensor([0.0, -0.1, 0.0, -0.4]))


@pytest.mark.parametrize("name", ["model", "imagination"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_single_draws_follow_the_closed_form(seed: int, name: str) -> None:
    pair, exact = random_history(seed)
    draws = 3000
    observed = Counter(start for (start,) in first_starts(pair, name, 1, draws))
    expected = {slot: draws * p for slot, p in exact[name].items()}
    assert p_value(observed, expected) > 1e-3


@pytest.mark.parametrize("name", ["model", "imagination"])
def test_batches_are_drawn_one_start_after_the_other(name: str) -> None:
    pair, exact = random_history(0)
    draws = 6000
    p = exact[name]
    expected = {
        (i, j): draws * p[i] * p[j] / (1 - p[i])
        for i, j in itertools.permutations(p, 2)
    }
    observed = Counter(first_starts(pair, name, 2, draws))
    assert p_value(observed, expected) > 1e-3


def test_uniform_draws_are_uniform() -> None:
    buffer, draws = make_buffer(UniformWindowSampler(window=WINDOW), 10), 4000
    buffer.extend(records(0, 13))
    starts = torch.cat([buffer.sample(2)["time"][:, 0] for _ in range(draws // 2)])
    observed = Counter(starts.tolist())
    assert sorted(observed) == list(range(3, 11))
    assert chisquare(list(observed.values())).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_weights_too_small_for_exp_are_still_drawn(dtype: torch.dtype) -> None:
    log_weights = torch.tensor([-3000.0, -2000.0, -torch.inf, -4000.0], dtype=dtype)
    assert draw_starts(log_weights, 3).tolist() == [1, 0, 3]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_draws_favour_no_slot_among_ten_million(device: str) -> None:
    size, generator = 10**7, torch.Generator(device).manual_seed(0)
    starts = draw_starts(torch.zeros(size, device=device), 4096, generator)
    assert starts.unique().numel() == 4096
    observed = torch.histc(starts.double(), bins=8, min=0, max=size)
    assert chisquare(observed.tolist()).pvalue > 1e-3


def test_never_drawn_records_are_preferred_at_low_temperature() -> None:
    pair = Pair(12, temperature=1e-3)
    pair.write(12)
    both = pair.starts("model", 5) + pair.starts("model", 5)
    assert sorted(both) == list(range(10))


@pytest.mark.parametrize("name", ["model", "imagination"])
def test_starts_of_a_batch_are_different(name: str) -> None:
    pair = Pair(20)
    pair.write(27)
    for _ in range(20):
        assert sorted(pair.starts(name, 18)) == sorted(
            (pair.time + k) % 20 for k in range(18)
        )


# --- What is counted -------------------------------------------------------------


def test_only_starts_are_counted_each_by_its_own_sampler() -> None:
    pair = Pair(8)
    pair.write(5)
    pair.starts("model", 3)
    pair.starts("imagination", 3)
    pair.starts("imagination", 3)
    assert pair.counts.model.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert pair.counts.imagination.tolist() == [2, 2, 2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("number", [1, 3], ids=["one", "some"])
def test_overwriting_resets_the_counts_for_both_samplers(number: int) -> None:
    pair = Pair(8)
    pair.write(8)
    pair.starts("model", 6)
    pair.starts("imagination", 6)
    pair.write(number)
    remembered = [0] * number + [1] * (6 - number) + [0, 0]
    assert pair.counts.model.tolist() == remembered
    assert pair.counts.imagination.tolist() == remembered


def test_add_resets_the_counts() -> None:
    pair = Pair(8)
    pair.write(8)
    pair.starts("model", 6)
    pair.model.add(records(8, 9)[0])
    assert pair.counts.model.tolist() == [0, 1, 1, 1, 1, 1, 0, 0]


def test_empty_forgets_everything() -> None:
    pair = Pair(8)
    pair.write(11)
    pair.starts("model", 6)
    pair.starts("imagination", 6)
    pair.model.empty()
    assert not pair.counts.model.any()
    assert not pair.counts.imagination.any()
    with pytest.raises(RuntimeError, match=r"Cannot sample from an empty storage\."):
        pair.imagination.sample(1)
    pair.time = 100
    pair.write(4)
    assert sorted(pair.imagination.sample(2)["time"].tolist()) == [
        [100, 101, 102],
        [101, 102, 103],
    ]


# --- Windows ---------------------------------------------------------------------


@every_sampler
@pytest.mark.parametrize("storage_type", [LazyTensorStorage, LazyMemmapStorage])
def test_sample_is_a_tensordict_of_windows(
    make: Callable[..., Sampler], storage_type: type
) -> None:
    buffer = TensorDictReplayBuffer(
        storage=storage_type(30), sampler=make(window=5), batch_size=4
    )
    buffer.extend(records(0, 30))
    sample = buffer.sample()
    assert sample.shape == (4, 5)
    assert sample["next", "done"].shape == (4, 5, 1)
    assert torch.equal(sample["index"], sample["time"])


@every_sampler
@pytest.mark.parametrize("length", [6, 10, 11, 14, 20, 29], ids=lambda n: f"{n}-of-10")
@pytest.mark.parametrize("window", [1, 4, 6])
def test_windows_are_all_the_consecutive_ones(
    make: Callable[..., Sampler], window: int, length: int
) -> None:
    buffer = make_buffer(make(window=window), 10)
    written = 0
    for size in itertools.cycle([1, 3]):
        if written >= length:
            break
        buffer.extend(records(written, min(written + size, length)))
        written += size
    oldest = max(0, length - 10)
    possible = length - oldest - window + 1
    times = buffer.sample(possible)["time"]
    expected = [list(range(oldest + k, oldest + k + window)) for k in range(possible)]
    assert sorted(times.tolist()) == expected


def test_buffer_made_over_a_filled_storage_finds_the_seam() -> None:
    first = make_buffer(UniformWindowSampler(window=WINDOW), 10)
    first.extend(records(0, 14))
    late = TensorDictReplayBuffer(
        storage=first.storage, sampler=DFSSampler(VisitCounts(), window=WINDOW)
    )
    assert sorted(late.sample(8)["time"][:, 0].tolist()) == list(range(4, 12))


def test_plain_replay_buffer_of_tensors_gives_windows() -> None:
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(6),
        sampler=DFSSampler(VisitCounts(), window=WINDOW),
        batch_size=2,
    )
    buffer.extend(torch.arange(5))
    assert buffer.sample().shape == (2, WINDOW)


@pytest.mark.parametrize("newest", range(6))
@pytest.mark.parametrize("window", range(1, 7))
def test_incomplete_windows_are_those_that_meet_the_oldest(
    window: int, newest: int
) -> None:
    allowed = torch.ones(6).bool()
    fill_incomplete(allowed, False, newest, window)
    passed = [{(s + k) % 6 for k in range(window - 1)} for s in range(6)]
    assert allowed.tolist() == [newest not in slots for slots in passed]


# --- Episodes --------------------------------------------------------------------


def test_uninterrupted_windows_end_with_the_episode_or_before() -> None:
    ends = torch.tensor([1, 0, 0, 0, 1, 0, 0, 0]).bool()
    allowed = uninterrupted_windows(ends, window=3)
    # The ring has no first slot: the window at 7 meets the end in slot 0.
    assert allowed.tolist() == [0, 1, 1, 0, 0, 1, 1, 0]


def test_uninterrupted_windows_of_one_record_start_anywhere() -> None:
    assert uninterrupted_windows(torch.ones(4).bool(), window=1).all()


@every_sampler
@pytest.mark.parametrize("length", [9, 12, 17], ids=["filling", "full", "wrapped"])
def test_windows_with_an_end_key_stay_in_one_episode(
    make: Callable[..., Sampler], length: int
) -> None:
    buffer = make_buffer(make(window=WINDOW, episode_end_key=END), 12)
    ends = range(3, 100, 4)
    buffer.extend(records(0, length, ends))
    times = range(max(0, length - 12), length - WINDOW + 1)
    expected = [t for t in times if t % 4 in (0, 1)]
    assert buffer.can_sample(len(expected))
    assert not buffer.can_sample(len(expected) + 1)
    starts = buffer.sample(len(expected))["time"][:, 0]
    assert sorted(starts.tolist()) == expected


@every_sampler
def test_windows_without_an_end_key_cross_episodes(
    make: Callable[..., Sampler],
) -> None:
    buffer = make_buffer(make(window=WINDOW), 12)
    buffer.extend(records(0, 12, range(12)))
    assert len(buffer.sample(10)) == 10


# --- State -----------------------------------------------------------------------


def copy_by_state_dict(source: Pair, target: Pair, folder: Path) -> None:
    target.model.load_state_dict(source.model.state_dict())
    target.imagination.sampler.load_state_dict(source.imagination.sampler.state_dict())


def copy_by_file(source: Pair, target: Pair, folder: Path) -> None:
    source.model.dumps(folder)
    target.model.loads(folder)


copied = pytest.mark.parametrize(
    "transfer", [copy_by_state_dict, copy_by_file], ids=["state_dict", "dumps"]
)
target_use = pytest.mark.parametrize(
    "used", [0, 13], ids=["into-fresh-buffers", "into-used-buffers"]
)


@copied
@target_use
def test_restored_buffers_draw_the_same(
    transfer: Callable[[Pair, Pair, Path], None], used: int, tmp_path: Path
) -> None:
    source, target = Pair(10, temperature=1.0), Pair(10, temperature=1.0)
    source.write(16)
    for name in ("model", "imagination", "model"):
        source.starts(name, 4)
    if used:
        target.write(used)
        target.starts("model", 3)
    transfer(source, target, tmp_path / "buffer")
    target.time = source.time
    assert torch.equal(target.counts.model, source.counts.model)
    assert torch.equal(target.counts.imagination, source.counts.imagination)
    drawn = []
    for pair in (source, target):
        torch.manual_seed(5)
        batches = [pair.starts(name, 3) for name in ("model", "imagination")]
        pair.write(2)
        batches += [pair.starts(name, 3) for name in ("imagination", "model")]
        drawn.append(batches)
    assert drawn[0] == drawn[1]


@copied
@target_use
def test_restored_buffers_do_not_cross_the_seam(
    transfer: Callable[[Pair, Pair, Path], None], used: int, tmp_path: Path
) -> None:
    source, target = Pair(10), Pair(10)
    source.write(16)
    if used:
        target.write(used)
    transfer(source, target, tmp_path / "buffer")
    if not used:  # the storage itself does not know where its seam is
        assert target.model.storage._last_cursor_index is None
    for name in ("model", "imagination"):
        times = getattr(target, name).sample(8)["time"]
        assert sorted(times[:, 0].tolist()) == list(range(6, 14))
        assert (times.diff(dim=1) == 1).all()


def test_uniform_sampler_restores_its_seam(tmp_path: Path) -> None:
    source = make_buffer(UniformWindowSampler(window=WINDOW), 10)
    target = make_buffer(UniformWindowSampler(window=WINDOW), 10)
    source.extend(records(0, 16))
    source.dumps(tmp_path / "buffer")
    target.loads(tmp_path / "buffer")
    assert (target.sample(8)["time"].diff(dim=1) == 1).all()


def test_a_uniform_view_that_shares_the_cursor_is_restored_with_the_buffer(
    tmp_path: Path,
) -> None:
    source = make_buffer(UniformWindowSampler(window=WINDOW), 10)
    cursor = RingCursor()
    target = make_buffer(UniformWindowSampler(cursor, window=WINDOW), 10)
    view = TensorDictReplayBuffer(
        storage=target.storage,
        sampler=UniformWindowSampler(cursor, window=WINDOW + 1),
        writer=ImmutableDatasetWriter(),
    )
    source.extend(records(0, 16))
    source.dumps(tmp_path / "buffer")
    target.loads(tmp_path / "buffer")
    starts = view.sample(7)["time"][:, 0]
    assert sorted(starts.tolist()) == list(range(6, 13))


def test_either_sampler_restores_the_counts_of_both(tmp_path: Path) -> None:
    source, target = Pair(10), Pair(10)
    source.write(16)
    source.starts("model", 4)
    source.starts("imagination", 4)
    source.imagination.sampler.dumps(tmp_path / "new" / "folder")
    target.write(16)
    for _ in range(2):
        target.imagination.sampler.loads(tmp_path / "new" / "folder")
        assert torch.equal(target.counts.model, source.counts.model)
        assert torch.equal(target.counts.imagination, source.counts.imagination)


@every_sampler
def test_set_rng_makes_draws_reproducible(make: Callable[..., Sampler]) -> None:
    drawn = []
    for noise in range(2):
        buffer = make_buffer(make(window=WINDOW), 50, batch_size=6)
        buffer.extend(records(0, 60))
        buffer.set_rng(torch.Generator().manual_seed(3))
        torch.manual_seed(noise)
        drawn.append(torch.stack([buffer.sample()["time"] for _ in range(4)]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][0], drawn[0][1])


# --- Errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: DFSSampler(VisitCounts(), window=0), "window", id="0"),
        pytest.param(lambda: UniformWindowSampler(window=-1), "window", id="-1"),
        pytest.param(
            lambda: DFSSampler(VisitCounts(), window=1, temperature=0.0),
            "temperature must be a positive number, got 0.0",
            id="cold",
        ),
        pytest.param(
            lambda: DFSImaginationSampler(VisitCounts(), window=1, temperature=-1.0),
            "temperature must be a positive number, got -1.0",
            id="negative-temperature",
        ),
        pytest.param(
            lambda: DFSImaginationSampler(VisitCounts(), window=1, ratio=float("nan")),
            "ratio must be a positive number, got nan",
            id="nan-ratio",
        ),
    ],
)
def test_impossible_arguments_are_refused(
    make: Callable[[], Sampler], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@every_sampler
def test_empty_storage_is_refused(make: Callable[..., Sampler]) -> None:
    buffer = make_buffer(make(window=WINDOW), 10)
    assert not buffer.can_sample(1)
    with pytest.raises(RuntimeError, match=r"Cannot sample from an empty storage\."):
        buffer.sample(1)


@pytest.mark.parametrize("length", [2, 9, 25], ids=["too-short", "filling", "wrapped"])
@every_sampler
def test_batch_larger_than_the_number_of_starts_is_refused(
    make: Callable[..., Sampler], length: int
) -> None:
    buffer = make_buffer(make(window=WINDOW), 10)
    buffer.extend(records(0, length))
    possible = max(0, min(length, 10) - WINDOW + 1)
    assert buffer.can_sample(possible + 1) is False
    message = rf"at least {possible + 1} starts .* have {possible}: collect more"
    with pytest.raises(RuntimeError, match=message):
        buffer.sample(possible + 1)
    if possible:
        assert buffer.can_sample(possible) is True
        assert len(buffer.sample(possible)) == possible


def test_refused_draws_count_nothing() -> None:
    pair = Pair(10)
    pair.write(5)
    with pytest.raises(RuntimeError, match="at least 4 starts"):
        pair.model.sample(4)
    assert not pair.counts.model.any()


def test_too_few_starts_within_episodes_are_refused() -> None:
    sampler = DFSSampler(VisitCounts(), window=WINDOW, episode_end_key=END)
    buffer = make_buffer(sampler, 12)
    buffer.extend(records(0, 12, range(3, 12, 4)))
    with pytest.raises(RuntimeError, match=r"at least 7 starts .* have 6: collect"):
        buffer.sample(7)


def test_window_longer_than_the_storage_is_refused() -> None:
    buffer = make_buffer(DFSSampler(VisitCounts(), window=11), 10)
    buffer.extend(records(0, 10))
    message = "window of at most 10 records, .* got 11: shorten the window"
    with pytest.raises(ValueError, match=message):
        buffer.sample(1)
    with pytest.raises(ValueError, match=message):
        buffer.can_sample(1)


def test_counts_of_another_storage_are_refused() -> None:
    counts = VisitCounts()
    first = make_buffer(DFSSampler(counts, window=WINDOW), 10)
    first.extend(records(0, 10))
    second = make_buffer(DFSImaginationSampler(counts, window=WINDOW), 10)
    with pytest.raises(ValueError, match=r"make one VisitCounts\(\) for each storage"):
        second.extend(records(0, 10))


# --- Waiting for the device ------------------------------------------------------


class HostReads(TorchDispatchMode):
    """Counts the operations that make the host wait for the device."""

    BLOCKING = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.equal.default,
    )

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        indexing = func.overloadpacket in (
            torch.ops.aten.index,
            torch.ops.aten.index_put_,
        )
        by_mask = indexing and any(i.dtype == torch.bool for i in args[1])
        self.number += by_mask or func in self.BLOCKING
        return func(*args, **(kwargs or {}))


@every_sampler
@pytest.mark.parametrize(
    ("end_key", "reads"), [(None, 0), (END, 1)], ids=["cross", "never-cross"]
)
def test_sample_reads_nothing_back(
    make: Callable[..., Sampler], end_key: Any, reads: int
) -> None:
    buffer = make_buffer(make(window=WINDOW, episode_end_key=end_key), 20)
    buffer.extend(records(0, 27))
    with HostReads() as host:
        buffer.sample(4)
    assert host.number == reads


@pytest.mark.gpu
@every_sampler
def test_sample_on_a_gpu_does_not_synchronise(make: Callable[..., Sampler]) -> None:
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(20, device="cuda"), sampler=make(window=WINDOW)
    )
    buffer.extend(records(0, 27))
    buffer.sample(4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        times = buffer.sample(18)["time"]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert times.is_cuda
    assert sorted(times[:, 0].tolist()) == list(range(7, 25))


@pytest.mark.gpu
@pytest.mark.parametrize("size", [20, 3000], ids=["one-block", "many-blocks"])
def test_drawing_can_be_captured_in_a_cuda_graph(size: int) -> None:
    visits = torch.zeros(size, dtype=torch.int32, device="cuda")
    allowed = torch.arange(size, device="cuda") < 3

    def draw() -> Tensor:
        log_weights = model_log_weights(visits, 10.0)
        starts = draw_starts(log_weights.masked_fill_(~allowed, -torch.inf), 3)
        visits[starts] += 1
        return starts

    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        draw()
    torch.cuda.synchronize()
    visits.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        starts = draw()
    graph.replay()
    assert sorted(starts.tolist()) == [0, 1, 2]
    allowed.fill_(True)
    allowed[1:3] = False
    batches = set()
    for _ in range(20):
        graph.replay()
        batches.add(tuple(starts.tolist()))
    drawn = set(itertools.chain.from_iterable(batches))
    assert not {1, 2} & drawn
    assert len(batches) > 1
    assert visits.sum() == 63


@pytest.mark.gpu
@pytest.mark.parametrize("size", [20, 3000], ids=["one-block", "many-blocks"])
def test_draws_on_a_gpu_come_from_its_generator(size: int) -> None:
    log_weights = torch.zeros(size, device="cuda")
    drawn = []
    for generator in (None, torch.Generator("cuda")):
        torch.manual_seed(7) if generator is None else generator.manual_seed(7)
        drawn += [[draw_starts(log_weights, 5, generator).tolist() for _ in range(2)]]
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]
