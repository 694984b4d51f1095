"""What the README shows runs, and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from drama_torchrl.config import load_config
from drama_torchrl.envs.games import find_rom_id
from drama_torchrl.gridworld.options import (
    GridWorldOptions,
    MemoryOptions,
    StudyOptions,
    read_options,
)
from drama_torchrl.sweep import make_plan

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
BASH = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Words of every command, comments dropped."""
    lines = [line for block in BASH for line in block.splitlines() if line.strip()]
    words = [shlex.split(line, comments=True) for line in lines]
    found: list[list[str]] = []
    for line in words:
        found.append([])
        for word in line:
            if word == "&&":
                found.append([])
            else:
                found[-1].append(word)
    return [command for command in found if command]


def ids(command: list[str]) -> str:
    return " ".join(command)[:60]


@pytest.mark.parametrize("source", PYTHON, ids=range(len(PYTHON)))
def test_examples_print_what_their_comments_say(source: str) -> None:
    expected = re.findall(r"^print\(.*?\)  # (.*)$", source, re.MULTILINE)
    assert expected, "an example that prints nothing shows nothing"
    assert len(expected) == source.count("print(")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(source, "README.md", "exec"), {"__name__": "readme"})
    printed = output.getvalue().splitlines()
    for line, comment in zip(printed, expected, strict=True):
        # A comment may go on after a colon.
        assert f"{comment}:".startswith(f"{line}:")


def test_an_example_composes_the_sampler_in_thirty_lines() -> None:
    (example,) = [source for source in PYTHON if "DFSSampler(" in source]
    assert len(example.strip().splitlines()) <= 36


def test_two_commands_set_everything_up_from_nothing() -> None:
    blocks = [block for block in BASH if "venv" in block]
    assert len(blocks) == 2
    for block in blocks:
        (line,) = block.strip().splitlines()
        steps = [shlex.split(step) for step in line.split("&&")]
        assert steps[0] == ["python3", "-m", "venv", ".venv"]
        assert steps[1] == [".", ".venv/bin/activate"]
        assert steps[2][:3] == ["pip", "install", "-e"]
    assert "preset=quick" in blocks[0]
    assert blocks[1].strip().endswith("pytest")


def test_the_extras_that_are_installed_exist() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = set(re.findall(r"\.\[([\w,]+)\]", "".join(BASH)))
    assert extras
    assert extras <= set(project["optional-dependencies"])


STUDIES: dict[str, type[StudyOptions]] = {
    "recipes/grid_world.py": GridWorldOptions,
    "recipes/grid_world_memory.py": MemoryOptions,
}
SCRIPTS = [c for c in commands() if "python" in c and "-m" not in c]


def test_modules_that_are_run_exist() -> None:
    modules = [c[2] for c in commands() if c[:2] == ["python", "-m"]]
    assert modules
    assert [module for module in modules if find_spec(module) is None] == []


@pytest.mark.parametrize("command", SCRIPTS, ids=ids)
def test_commands_name_scripts_and_options_that_exist(command: list[str]) -> None:
    script, *arguments = command[1:]
    if script == "-m":
        assert find_spec(f"{arguments[0]}.__main__")
        return
    assert (REPOSITORY / script).is_file()
    options = [argument for argument in arguments if "=" in argument]
    if script == "recipes/sweep_atari100k.py":
        assert make_plan(options).runs
        return
    if script in STUDIES:
        assert read_options(STUDIES[script], options)
        return
    config = load_config(overrides=options)
    assert find_rom_id(config.env.game)


def test_a_run_that_is_evaluated_is_one_that_was_trained() -> None:
    script = "recipes/drama_atari100k.py"
    trained = {
        load_config(overrides=command[command.index(script) + 1 :]).run_path.as_posix()
        for command in commands()
        if script in command  # whatever starts it
    }
    evaluated = {
        command[2] for command in commands() if "recipes/evaluate.py" in command
    }
    assert evaluated
    assert evaluated <= trained


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if "://" not in link]
    assert local
    assert [link for link in local if not (REPOSITORY / link).exists()] == []
