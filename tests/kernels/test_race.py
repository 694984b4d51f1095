"""The kernels' winners are those of a race that is written out, and fair."""

from __future__ import annotations

import importlib.util
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from drama_torchrl.kernels import race_kernels
from drama_torchrl.kernels.race import can_race, race
from tests.reference.philox import philox, race_uniforms

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
# Less than a block or more, whole blocks or not, more winners than blocks or not.
SIZES = [(5, 5), (256, 1), (300, 2), (300, 200), (2048, 3), (2049, 9), (12_345, 7)]


def winners(log_weights: Tensor, count: int, seed: int = 0) -> list[int]:
    seeds = torch.tensor([seed], device=log_weights.device)
    return race(log_weights, count, seeds).tolist()


def test_the_reference_counts_up_as_its_authors_do() -> None:
    counter = torch.zeros(1, dtype=torch.uint64).numpy()
    # The first known answer for philox4x32 of ten rounds in Random123.
    words = [int(word[0]) for word in philox(counter, seed=0)]
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("size", "count"), SIZES)
def test_the_winners_are_those_of_the_race_written_out(
    size: int, count: int, dtype: torch.dtype, device: torch.device
) -> None:
    log_weights, seed = torch.randn(size).to(dtype), 2**62 + 12345
    keys = log_weights - race_uniforms(size, seed).log().neg().log()
    expected = keys.topk(count).indices.tolist()
    assert winners(log_weights.to(device), count, seed) == expected


def test_the_keys_of_a_block_have_all_the_bits_of_their_noise(
    device: torch.device,
) -> None:
    log_weights, seed = torch.randn(600), 2**40 + 7
    keys = torch.empty(2, 256, dtype=torch.float64, device=device)
    race_kernels.race_keys_kernel[(2,)](
        log_weights.to(device),
        torch.tensor([seed], device=device),
        torch.tensor([2, 0], device=device),
        keys,
        len(log_weights),
        HALF=128,
    )
    expected = log_weights - race_uniforms(600, seed).log().neg().log()
    beyond = torch.full((768 - 600,), -torch.inf)
    exact = torch.cat([expected[512:], beyond, expected[:256]]).view(2, 256)
    torch.testing.assert_close(keys.cpu(), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("blocks", [1, 4])
def test_single_winners_follow_their_weights(blocks: int, device: torch.device) -> None:
    possible = torch.arange(5) * (256 * blocks // 5)
    weights = torch.tensor([1.0, 2.0, 3.0, 5.0, 8.0])
    log_weights = torch.full((256 * blocks,), -torch.inf)
    log_weights[possible] = weights.log()
    log_weights = log_weights.to(device)
    draws = 400
    observed = Counter(winners(log_weights, 1, seed)[0] for seed in range(draws))
    assert set(observed) <= {*possible.tolist()}
    expected = (draws * weights / weights.sum()).tolist()
    found = [observed[slot] for slot in possible.tolist()]
    assert chisquare(found, expected).pvalue > 1e-3


def test_winners_are_everywhere_alike(device: torch.device) -> None:
    starts = torch.tensor(winners(torch.zeros(8192, device=device), 2048))
    assert starts.unique().numel() == 2048
    for place in (starts // 1024, starts % 8, starts % 256 // 32):
        assert chisquare(place.bincount(minlength=8).tolist()).pvalue > 1e-3


@pytest.mark.parametrize("size", [100, 700])
def test_all_possible_slots_win_and_no_others(size: int, device: torch.device) -> None:
    log_weights = torch.full((size,), -torch.inf, device=device)
    possible = [*range(0, size, 7), size - 1]
    log_weights[possible] = -3000.0
    for count in (len({*possible}), 2):
        drawn = winners(log_weights, count)
        assert len({*drawn}) == count
        assert {*drawn} <= {*possible}


def test_weights_too_small_for_exp_are_told_apart(device: torch.device) -> None:
    log_weights = torch.tensor([-3000.0, -2000.0, -torch.inf, -4000.0], device=device)
    assert winners(log_weights, 3) == [1, 0, 3]


def test_the_seed_alone_decides(device: torch.device) -> None:
    log_weights = torch.zeros(1000, device=device)
    seeds = [1, 2, 1 << 32, (1 << 63) - 1]
    drawn = [winners(log_weights, 3, seed) for seed in seeds]
    assert drawn == [winners(log_weights, 3, seed) for seed in seeds]
    assert len({tuple(starts) for starts in drawn}) == len(seeds)


def test_weights_are_read_where_they_lie(device: torch.device) -> None:
    log_weights = torch.randn(600, device=device)
    spread = torch.stack([log_weights, -log_weights], -1)[:, 0]
    assert winners(spread, 2) == winners(log_weights, 2)


def test_the_operator_is_registered_as_torch_wants(device: torch.device) -> None:
    seed = torch.tensor([3], device=device)
    for count in (2, 1):
        torch.library.opcheck(race, (torch.randn(300, device=device), count, seed))


def test_only_what_it_can_do_is_given_to_it() -> None:
    with FakeTensorMode():
        log_weights = torch.zeros(10, device="cuda")
        assert can_race(log_weights)
        assert can_race(log_weights.double())
        assert not can_race(log_weights.half())
        assert not can_race(log_weights.cpu())
