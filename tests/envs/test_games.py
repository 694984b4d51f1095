"""Games are found under each spelling, and a misspelt one gets the nearest names."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from ale_py import roms

from drama_torchrl.envs import games
from drama_torchrl.envs.games import find_rom_id, list_games

ATARI_100K = {
    *("Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing"),
    *("Breakout", "ChopperCommand", "CrazyClimber", "DemonAttack", "Freeway"),
    *("Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull", "KungFuMaster"),
    *("MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown"),
}


@pytest.mark.parametrize("name", ["MsPacman", "ms_pacman", "mspacman", "MSPACMAN"])
def test_a_game_is_found_under_each_spelling(name: str) -> None:
    assert find_rom_id(name) == "ms_pacman"


def test_all_26_games_of_atari_100k_are_listed() -> None:
    assert len(ATARI_100K) == 26
    assert set(list_games()) >= ATARI_100K


def test_every_listed_game_leads_to_its_own_rom() -> None:
    paths = {roms.get_rom_path(find_rom_id(name)) for name in list_games()}
    assert None not in paths
    assert len(paths) == len(list_games())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Boxin", r"got 'Boxin'\. Did you mean Boxing.*list_games"),
        ("MsPackman", "Did you mean MsPacman"),
        ("ALE/Pong-v5", "Did you mean .*Pong"),
        ("zzzz", r"got 'zzzz'\. drama_torchrl.*list_games\(\) lists all"),
        ("", "Expected the name of an Atari game, got ''"),
        (3, "Expected game to be a name such as 'Pong', got 3"),
    ],
)
def test_an_unknown_game_gets_the_nearest_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_rom_id(name)


def test_a_missing_emulator_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ale_py.roms", None)
    spec = importlib.util.spec_from_file_location("games_again", games.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match="pip install ale-py gymnasium"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
