"""What an acting agent remembers: the episode, or its last steps; each on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from drama_torchrl.factories import make_world_model
from drama_torchrl.modules.world_model import WorldModel
from drama_torchrl.policies.memory import CarriedMemory, Memory, WindowMemory
from tests.reference.tiny import (
    ACTIONS,
    CATEGORICALS,
    CLASSES,
    WIDTH,
    random_actions,
    tiny_config,
)

WINDOW = 4
MakeMemory = Callable[[WorldModel, int], Memory]


def carried(world_model: WorldModel, batch_size: int) -> Memory:
    return CarriedMemory(world_model, batch_size)


def window(world_model: WorldModel, batch_size: int) -> Memory:
    return WindowMemory(world_model, batch_size, ACTIONS, WINDOW)


both_memories = pytest.mark.parametrize(
    "make", [carried, window], ids=lambda f: f.__name__
)


@pytest.fixture
def world_model() -> WorldModel:
    return make_world_model(tiny_config(), ACTIONS)


def episode(environments: int, steps: int) -> TensorDict:
    latent = torch.eye(CLASSES)[
        torch.randint(CLASSES, (environments, steps, CATEGORICALS))
    ]
    return TensorDict(
        latent=latent.flatten(-2),
        action=random_actions(environments, steps).float(),
        batch_size=[environments, steps],
    )


@torch.no_grad()
def recalled(
    memory: Memory, steps: TensorDict, starts: Sequence[tuple[int, int]]
) -> Tensor:
    """Beliefs ``[B, T, D]`` before each step; ``starts`` are (environment, step)."""
    is_init = torch.zeros(steps.shape, dtype=torch.bool)
    for environment, step in starts:
        is_init[environment, step] = True
    beliefs = []
    for t in range(steps.shape[1]):
        beliefs.append(memory.recall(is_init[:, t]).clone())
        memory.remember(steps["latent"][:, t], steps["action"][:, t])
    return torch.stack(beliefs, 1)


@torch.no_grad()
def observed(world_model: WorldModel, steps: TensorDict) -> Tensor:
    """The belief ``[B, D]`` after those steps from an empty past."""
    if steps.shape[1] == 0:
        return torch.zeros(steps.shape[0], WIDTH)
    return world_model.observe(steps.clone())[0]["next", "belief"][:, -1]


def assert_close(given: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-4)


def test_the_carried_memory_knows_the_whole_episode(world_model: WorldModel) -> None:
    steps = episode(2, 10)
    beliefs = recalled(carried(world_model, 2), steps, [(0, 0), (1, 0)])
    for t in range(10):
        assert_close(beliefs[:, t], observed(world_model, steps[:, :t]))


def test_the_window_memory_knows_the_last_steps_alone(world_model: WorldModel) -> None:
    steps = episode(2, 10)
    beliefs = recalled(window(world_model, 2), steps, [(0, 0), (1, 0)])
    for t in range(10):
        last = steps[:, max(0, t - WINDOW) : t]
        assert_close(beliefs[:, t], observed(world_model, last))


def test_both_agree_until_the_window_is_full_and_then_differ(
    world_model: WorldModel,
) -> None:
    steps = episode(3, 8)
    starts = [(i, 0) for i in range(3)]
    one = recalled(carried(world_model, 3), steps, starts)
    other = recalled(window(world_model, 3), steps, starts)
    assert_close(one[:, : WINDOW + 1], other[:, : WINDOW + 1])
    difference = (one - other)[:, WINDOW + 1 :].abs().amax(-1)
    assert (difference > 1e-3).all()


@both_memories
def test_there_is_no_belief_before_the_first_step(
    world_model: WorldModel, make: MakeMemory
) -> None:
    memory = make(world_model, 2)
    recalled(memory, episode(2, 6), [(0, 0), (1, 0)])
    assert not memory.recall(torch.tensor([True, True])).any()


@both_memories
@pytest.mark.parametrize("start", [1, 3, WINDOW, 7])
def test_a_new_episode_forgets_in_its_own_environment_alone(
    world_model: WorldModel, make: MakeMemory, start: int
) -> None:
    steps = episode(2, 10)
    beliefs = recalled(make(world_model, 2), steps, [(0, 0), (1, 0), (0, start)])
    assert not beliefs[0, start].any()
    fresh = recalled(make(world_model, 1), steps[:1, start:], [(0, 0)])
    assert_close(beliefs[:1, start:], fresh)
    alone = recalled(make(world_model, 1), steps[1:], [(0, 0)])
    assert_close(beliefs[1:], alone)


@both_memories
def test_a_new_memory_starts_with_an_empty_past(
    world_model: WorldModel, make: MakeMemory
) -> None:
    steps = episode(2, 3)
    flagged = recalled(make(world_model, 2), steps, [(0, 0), (1, 0)])
    unflagged = recalled(make(world_model, 2), steps, [])
    assert torch.equal(flagged, unflagged)


@both_memories
def test_what_is_remembered_is_not_saved(
    world_model: WorldModel, make: MakeMemory
) -> None:
    memory = make(world_model, 2)
    assert isinstance(memory, nn.Module)
    assert all(name.startswith("world_model.") for name in memory.state_dict())


@both_memories
def test_recalling_twice_changes_nothing(
    world_model: WorldModel, make: MakeMemory
) -> None:
    memory, not_init = make(world_model, 2), torch.tensor([False, False])
    recalled(memory, episode(2, 3), [])
    with torch.no_grad():
        first = memory.recall(not_init).clone()
        assert torch.equal(memory.recall(not_init), first)


@both_memories
@torch.no_grad()
def test_a_recalled_belief_stays_as_it_was(
    world_model: WorldModel, make: MakeMemory
) -> None:
    memory, steps = make(world_model, 2), episode(2, 2)
    no = torch.tensor([False, False])
    memory.remember(steps["latent"][:, 0], steps["action"][:, 0])
    belief = memory.recall(no)
    before = belief.clone()
    memory.remember(steps["latent"][:, 1], steps["action"][:, 1])
    memory.recall(~no)
    assert torch.equal(belief, before)


@both_memories
@torch.no_grad()
def test_its_contents_are_all_that_it_remembers(
    world_model: WorldModel, make: MakeMemory
) -> None:
    memory, other = make(world_model, 2), make(world_model, 2)
    no = torch.tensor([False, False])
    recalled(memory, episode(2, 3), [])
    for name, value in other.contents().items():
        value.copy_(memory.contents()[name])
    assert memory.recall(no).any()
    assert torch.equal(other.recall(no), memory.recall(no))
