"""Environments: Atari as the benchmark plays it, and imagination."""

from drama_torchrl.envs.atari import AtariEnv, make_atari_env
from drama_torchrl.envs.checks import CheckTransition
from drama_torchrl.envs.games import list_games
from drama_torchrl.envs.imagination import ImaginationEnv, imagine

__all__ = [
    "AtariEnv",
    "CheckTransition",
    "ImaginationEnv",
    "imagine",
    "list_games",
    "make_atari_env",
]
