"""A replay buffer that cannot fit is refused before the run starts, with choices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drama_torchrl.config import ConfigError, load_config
from drama_torchrl.factories import (
    describe_replay,
    make_agent,
    make_collector,
    make_env,
    make_policy,
    make_replay,
)
from drama_torchrl.factories.memory import find_free_memory, transition_bytes
from recipes.drama_atari100k import REMEMBERED, main
from tests.reference.tiny_run import run_options

CPU = torch.device("cpu")


@pytest.mark.parametrize("game", ["Pong", "Alien"])
def test_the_bytes_are_those_of_the_buffer(game: str, tmp_path: Path) -> None:
    config = load_config(overrides=run_options(tmp_path, f"env.game={game}"))
    env = make_env(config, seed=0)
    num_actions = env.action_spec.shape[-1]
    policy = make_policy(config, make_agent(config, num_actions, CPU))
    collector = make_collector(config, env, policy)
    replay, _ = make_replay(config, CPU)
    replay.extend(next(iter(collector)).select(*REMEMBERED))
    stored = sum(value.nbytes for value in replay.storage._storage.values(True, True))
    collector.shutdown()
    expected = config.replay.capacity * transition_bytes(config, num_actions)
    assert stored == expected


def test_what_fits_exactly_is_accepted_and_one_byte_less_is_not() -> None:
    config = load_config("quick", ["replay.device=cpu"])
    needed = 10_000 * transition_bytes(config, 6)
    assert "0.12 GB on cpu" in describe_replay(config, 6, CPU, free=needed)
    with pytest.raises(ConfigError, match=r"use replay\.capacity=9999 or less, or"):
        describe_replay(config, 6, CPU, free=needed - 1)


def test_the_choices_are_those_that_help() -> None:
    config = load_config("quick", ["replay.capacity=100000", "replay.device=auto"])
    with pytest.raises(ConfigError) as caught:
        describe_replay(config, 6, torch.device("cuda"), free=10**9)
    message = str(caught.value)
    assert (
        "100000 transitions of 12308 bytes, 1.23 GB on cuda, where 1.00 GB" in message
    )
    assert "replay.capacity=81247 or less" in message
    assert "replay.capacity=2400, all steps of the run" in message
    assert "replay.device=cpu" in message
    assert "an env.frame_size below 64" in message


def test_frames_on_the_host_take_what_is_locked_for_them() -> None:
    config, gpu = load_config("xs", ["replay.device=cpu"]), torch.device("cuda")
    locked = 2**31  # the next power of two from 100 000 frames of 12 288 bytes
    said = describe_replay(config, 18, gpu, free=locked)
    assert said.startswith("replay: 100,000 transitions, 2.15 GB page-locked on cpu")
    with pytest.raises(ConfigError, match=r"replay\.capacity=87381 or less") as caught:
        describe_replay(config, 18, gpu, free=locked - 1)
    assert "replay.device=cpu" not in str(caught.value)
    fits = load_config("xs", ["replay.device=cpu", "replay.capacity=87381"])
    assert "1.07 GB page-locked" in describe_replay(fits, 18, gpu, free=locked - 1)


def test_a_run_says_it_at_the_start_or_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"replay\.capacity: expected .* memory"):
        main(run_options(run, "replay.capacity=1000000000000"))
    assert not run.exists()
    assert "replay: " not in capsys.readouterr().out


class TestFreeMemory:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        self.write(tmp_path, "proc/meminfo", "MemTotal: 9 kB\nMemAvailable: 8 kB\n")
        return tmp_path

    def write(self, root: Path, name: str, text: str) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    def test_without_a_limit_it_is_what_linux_says(self, root: Path) -> None:
        assert find_free_memory(CPU, root) == 8192
        self.write(root, "sys/fs/cgroup/memory.max", "max\n")
        assert find_free_memory(CPU, root) == 8192

    def test_the_limit_of_the_own_group_counts(self, root: Path) -> None:
        self.write(root, "proc/self/cgroup", "0::/jobs/7\n")
        group = "sys/fs/cgroup/jobs/7"
        self.write(root, f"{group}/memory.max", "5000\n")
        self.write(root, f"{group}/memory.current", "4000\n")
        assert find_free_memory(CPU, root) == 1000
        stat = "anon 9\ninactive_file 300\nactive_file 20\n"
        self.write(root, f"{group}/memory.stat", stat)
        assert find_free_memory(CPU, root) == 1320

    def test_so_does_that_of_the_first_version_mounted_as_the_root(
        self, root: Path
    ) -> None:
        self.write(root, "proc/self/cgroup", "4:cpu,memory:/docker/ab\n0::/\n")
        self.write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n")
        self.write(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "6000\n")
        assert find_free_memory(CPU, root) == 0

    def test_here_it_is_a_plausible_number(self) -> None:
        free = find_free_memory(CPU)
        assert free is None or 10**7 < free < 10**14
