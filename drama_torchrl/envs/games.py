"""The Atari games that the emulator ships, and how their names are found."""

from __future__ import annotations

import difflib

__all__ = [
    "find_rom_id",
    "list_games",
]

try:
    from ale_py.registration import rom_id_to_name
    from ale_py.roms import get_all_rom_ids
except ImportError as error:
    raise ImportError(
        "The Atari environments need the Arcade Learning Environment, which cannot be "
        "imported. Install it with: pip install ale-py gymnasium"
    ) from error


def list_games() -> list[str]:
    """List the names of all the games that can be played.

    Returns:
        Sorted names as in ``"MsPacman"``, each accepted by
        :func:`~drama_torchrl.envs.atari.make_atari_env`.

    Example:
        >>> "MsPacman" in list_games()
        True
    """
    return sorted(rom_id_to_name(rom_id) for rom_id in get_all_rom_ids())


def find_rom_id(game: str) -> str:
    """Find the emulator's own name of a game.

    Args:
        game: ``"MsPacman"``, ``"ms_pacman"`` or ``"mspacman"``.

    Returns:
        The name as the emulator spells it, ``"ms_pacman"``.

    Raises:
        ValueError: If there is no such game; the nearest names are given.

    Example:
        >>> find_rom_id("MsPacman")
        'ms_pacman'
    """
    if not isinstance(game, str):
        raise ValueError(f"Expected game to be a name such as 'Pong', got {game!r}.")
    rom_ids = {rom_id.replace("_", ""): rom_id for rom_id in get_all_rom_ids()}
    plain = game.replace("_", "").lower()
    if plain in rom_ids:
        return rom_ids[plain]
    nearest = difflib.get_close_matches(plain, rom_ids, n=3, cutoff=0.5)
    names = " or ".join(rom_id_to_name(rom_ids[name]) for name in nearest)
    hint = f"Did you mean {names}? " if nearest else ""
    raise ValueError(
        f"Expected the name of an Atari game, got {game!r}. {hint}"
        f"drama_torchrl.envs.games.list_games() lists all {len(rom_ids)} names."
    )
