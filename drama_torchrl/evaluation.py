"""Scores of a policy over whole episodes, played in several environments at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase, ExplorationType, set_exploration_type

__all__ = ["EpisodeResult", "evaluate", "record_episode"]


@dataclass(frozen=True)
class EpisodeResult:
    """One whole episode.

    Args:
        return_: undiscounted sum of its rewards.
        length: environment steps.
        seed: the seed that the environment was given before it.
    """

    return_: float
    length: int
    seed: int


def evaluate(
    env_factory: Callable[[], EnvBase],
    policy_factory: Callable[[int], TensorDictModuleBase],
    *,
    episodes: int,
    seed: int,
    exploration_type: ExplorationType,
    max_parallel: int = 8,
) -> Iterator[EpisodeResult]:
    """Play whole episodes, several at once, all actions chosen by one call.

    Episode k starts in an environment seeded with ``seed + k``. Exactly the first
    ``episodes`` that start are counted, however long they last, and they come in the
    order of their start: a caller may stop early without favouring short episodes.
    Actions are drawn from torch's global generator.

    Environments that split a step into ``send_action`` and ``receive_frame``, as
    :class:`~drama_torchrl.envs.AtariEnv` does, step at the same time.

    Args:
        env_factory: makes an environment of batch size ``[]`` with ``"pixels"`` and
            an ``"action"``.
        policy_factory: makes a policy for a number of environments, which reads
            ``"pixels"`` and ``"is_init"`` ``[n, 1]`` and writes ``"action"``.
        episodes: number of episodes, at least 1.
        seed: of the first episode.
        exploration_type: ``RANDOM`` to draw actions, ``DETERMINISTIC`` for the
            likeliest ones.
        max_parallel: most environments at once, at least 1.

    Returns:
        An iterator over the results, which plays as it is read. The environments are
        closed when it ends or is dropped.

    Raises:
        ValueError: if a number is below 1.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.envs import make_atari_env
        >>> from drama_torchrl.factories import make_agent, make_policy
        >>> config = load_config("quick")
        >>> agent = make_agent(config, 6, torch.device("cpu"))
        >>> results = evaluate(
        ...     lambda: make_atari_env("Pong", seed=0, max_frames=40),
        ...     lambda n: make_policy(config, agent, batch_size=n),
        ...     episodes=2,
        ...     seed=5,
        ...     exploration_type=ExplorationType.RANDOM,
        ... )
        >>> [(result.seed, result.length) for result in results]
        [(5, 10), (6, 10)]
    """
    for name, value in {"episodes": episodes, "max_parallel": max_parallel}.items():
        if value < 1:
            raise ValueError(f"evaluate expects {name} of 1 or more, got {value}.")
    count = min(episodes, max_parallel)
    return _evaluate(
        env_factory,
        policy_factory(count),
        count,
        range(seed, seed + episodes),
        exploration_type,
    )


def record_episode(
    env_factory: Callable[[], EnvBase],
    policy_factory: Callable[[int], TensorDictModuleBase],
    *,
    seed: int,
    exploration_type: ExplorationType,
    max_steps: int = 3_000,
) -> Tensor:
    """Film one episode: every frame on which the policy acted.

    Args:
        env_factory: as for :func:`evaluate`.
        policy_factory: as for :func:`evaluate`.
        seed: of the episode.
        exploration_type: as for :func:`evaluate`.
        max_steps: steps after which the camera stops, at least 1.

    Returns:
        uint8 frames ``[T, 3, F, F]``.

    Raises:
        ValueError: if ``max_steps`` is below 1.
    """
    if max_steps < 1:
        raise ValueError(
            f"record_episode expects max_steps of 1 or more, got {max_steps}."
        )
    seat = _take_seat(env_factory())
    policy = policy_factory(1)
    frames: list[Tensor] = []
    try:
        seat.start(seed)
        while seat.playing and len(frames) < max_steps:
            frames.append(seat.pixels.cpu().clone())
            _play_step(policy, [seat], exploration_type)
    finally:
        seat.close()
    return torch.stack(frames)


class _Seat:
    """One environment and the episode that is played in it."""

    def __init__(self, env: EnvBase) -> None:
        self.env = env
        self.playing = False

    def start(self, seed: int) -> None:
        self.env.set_seed(seed)
        self.root: TensorDictBase = self.env.reset()
        self.seed, self.length, self.return_ = seed, 0, 0.0
        self.playing = True

    @property
    def pixels(self) -> Tensor:
        return self.root.get("pixels")

    @property
    def result(self) -> EpisodeResult:
        return EpisodeResult(self.return_, self.length, self.seed)

    def send(self, action: Tensor) -> None:
        self.root.set("action", action)

    def receive(self) -> None:
        stepped = self.env.step(self.root)
        self._count(stepped.get("next"))
        self.root = self.env.step_mdp(stepped)

    def _count(self, outcome: TensorDictBase) -> None:
        self.length += 1
        self.return_ += float(outcome.get("reward"))
        self.playing = not bool(outcome.get("done"))

    def close(self) -> None:
        self.env.close(raise_if_closed=False)


class _SplitSeat(_Seat):
    """An environment that computes its step while the others are told theirs."""

    def send(self, action: Tensor) -> None:
        self.env.send_action(self.root.set("action", action))

    def receive(self) -> None:
        self.root = self.env.receive_frame()
        self._count(self.root)


def _take_seat(env: EnvBase) -> _Seat:
    # The class is asked: a TransformedEnv forwards the names past its transforms.
    return _SplitSeat(env) if hasattr(type(env), "send_action") else _Seat(env)


def _evaluate(
    env_factory: Callable[[], EnvBase],
    policy: TensorDictModuleBase,
    count: int,
    seeds: Sequence[int],
    exploration_type: ExplorationType,
) -> Iterator[EpisodeResult]:
    seats: list[_Seat] = []
    waiting = iter(seeds)
    finished: dict[int, EpisodeResult] = {}
    try:
        for _ in range(count):
            seats.append(_take_seat(env_factory()))
            seats[-1].start(next(waiting))
        for due in seeds:
            while due not in finished:
                ended = _play_step(policy, seats, exploration_type)
                for seat in ended:
                    finished[seat.seed] = seat.result
                    seed = next(waiting, None)
                    if seed is not None:
                        seat.start(seed)
            yield finished.pop(due)
    finally:
        for seat in seats:
            seat.close()


def _play_step(
    policy: TensorDictModuleBase,
    seats: Sequence[_Seat],
    exploration_type: ExplorationType,
) -> list[_Seat]:
    """Advance all episodes by a step; return the seats whose episode ended."""
    playing = [(i, seat) for i, seat in enumerate(seats) if seat.playing]
    actions = _choose_actions(policy, seats, exploration_type)
    for i, seat in playing:
        seat.send(actions[i])
    for _, seat in playing:
        seat.receive()
    return [seat for _, seat in playing if not seat.playing]


@torch.no_grad()
def _choose_actions(
    policy: TensorDictModuleBase,
    seats: Sequence[_Seat],
    exploration_type: ExplorationType,
) -> Tensor:
    """Actions ``[n, A]`` on the CPU; seats that have stopped get one for nothing.

    The batch keeps its size because the policy's memory has one place for each seat.
    """
    device = next((p.device for p in policy.parameters()), torch.device("cpu"))
    is_init = torch.tensor([[seat.length == 0] for seat in seats])
    pixels = torch.stack([seat.pixels for seat in seats])
    batch = TensorDict({"pixels": pixels, "is_init": is_init}, batch_size=[len(seats)])
    with set_exploration_type(exploration_type):
        return policy(batch.to(device)).get("action").cpu()
