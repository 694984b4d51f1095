"""A run says where it came from."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import drama_torchrl
from drama_torchrl.record.atomic import write_json
from drama_torchrl.record.origin import find_commit, provenance


def test_provenance_goes_into_a_result_and_names_no_host(tmp_path: Path) -> None:
    found = provenance(torch.device("cpu"))
    write_json(tmp_path / "result.json", found)
    assert found["versions"]["torch"] == str(torch.__version__)
    assert None not in found["versions"].values()
    assert found["device"]
    assert found["written"].endswith("+00:00")
    assert set(found) == {"written", "commit", "versions", "device", "cpus"}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file committed to a repository of its own."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "module.py"
    path.write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "module.py")
    return path


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_commit_is_named_and_changes_to_it_are_told(source: Path) -> None:
    assert find_commit(source) is None
    git(source.parent, "commit", "--quiet", "--message", "first")
    head = git(source.parent, "rev-parse", "HEAD")
    assert find_commit(source) == head
    source.write_text("x = 2\n")
    assert find_commit(source) == f"{head}-dirty"


def test_the_commit_of_a_checkout_around_the_package_does_not_count(
    source: Path,
) -> None:
    git(source.parent, "commit", "--quiet", "--message", "first")
    installed = source.parent / "venv" / "package.py"
    installed.parent.mkdir()
    installed.write_text("")
    assert find_commit(installed) is None


def test_without_git_there_is_no_commit(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(source.parent, "commit", "--quiet", "--message", "first")
    monkeypatch.setenv("PATH", "")
    assert find_commit(source) is None
    program = "from drama_torchrl.record import provenance; print(provenance())"
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "'commit': None" in run.stdout


def test_the_commit_is_that_of_the_code_that_runs(source: Path) -> None:
    checkout = source.parent
    package = Path(drama_torchrl.__file__).parent
    shutil.copytree(package, checkout / package.name)
    git(checkout, "add", package.name)
    git(checkout, "commit", "--quiet", "--message", "first")
    head = git(checkout, "rev-parse", "HEAD")
    program = """
        import sys
        from drama_torchrl.record.origin import provenance
        print("imported", flush=True)
        sys.stdin.readline()
        print(provenance()["commit"])
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=checkout,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "imported\n"
        source.write_text("x = 2\n")
        git(checkout, "commit", "--quiet", "--all", "--message", "second")
        assert git(checkout, "rev-parse", "HEAD") != head
        assert run.communicate("\n")[0].strip() == head
