"""What a reader of the numbers must know before believing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drama_torchrl.report.variants import Variant

__all__ = ["find_caveats"]

_GAMES = 26
_STEPS = 100_000
_EPISODES = 100
_SEEDS = 5


def find_caveats(variants: Sequence[Variant]) -> list[str]:
    """Say in which way the runs fall short of the benchmark's protocol.

    Args:
        variants: all of a report.

    Returns:
        One sentence for each shortcoming; none for 26 games × 5 seeds of 100 000 steps
        and 100 final episodes.
    """
    names: dict[str, list[str]] = {}
    for variant in variants:
        for text in _caveats(variant):
            names.setdefault(text, []).append(variant.name)
    return [
        text if len(of) == len(variants) else f"{'; '.join(of)}: {text}"
        for text, of in names.items()
    ]


def _caveats(variant: Variant) -> Iterator[str]:
    counts = [len(runs) for runs in variant.by_game.values()]
    settings = variant.runs[0].settings
    steps = settings["training.total_steps"]
    episodes = sorted({run.final_episodes for run in variant.runs})
    if steps != _STEPS:
        yield f"runs of {steps} steps; the paper's scores are after {_STEPS}."
    if episodes != [_EPISODES]:
        counted = " to ".join(map(str, dict.fromkeys([episodes[0], episodes[-1]])))
        yield f"final scores of {counted} episodes instead of {_EPISODES}."
    if len(counts) < _GAMES:
        yield (
            f"{len(counts)} of the {_GAMES} games of Atari100k; aggregates of fewer "
            "games are not those of the benchmark."
        )
    if min(counts) != max(counts):
        yield (
            f"{min(counts)} to {max(counts)} seeds per game; the IQM of runs weighs "
            "games by their seeds."
        )
    if max(counts) == 1:
        yield "one seed per game, so nothing is known about the spread over seeds."
    elif min(counts) == 1:
        yield "intervals of aggregates take games with one seed for exact."
    elif min(counts) < _SEEDS:
        yield (
            f"fewer than {_SEEDS} seeds in some games; intervals from so few are too "
            "narrow."
        )
