"""One finished run of the recipe, shared by the tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.drama_atari100k import main
from tests.reference.tiny_run import run_options


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a run; whoever wants to change something copies it."""
    path = tmp_path_factory.mktemp("finished") / "run"
    main(run_options(path))
    return path
