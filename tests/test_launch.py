"""Kernels are compiled from fake tensors for the launch with real ones."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.library import CustomOpDef

import drama_torchrl.kernels

pytest.importorskip("triton")

from tests.reference.launches import OPERATORS

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.reference.launches"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", OPERATORS)
def test_fake_tensors_have_compiled_what_real_ones_launch(
    name: str, report: dict[str, Any]
) -> None:
    seen = report[name]
    assert seen["launched_by_fakes"] == []
    assert seen["from_fakes"]
    assert {*seen["from_fakes"]} <= {*seen["launched"]}
    assert seen["compiled"] == seen["from_fakes"]


def test_what_a_thread_cannot_compile_the_launch_reports(
    report: dict[str, Any],
) -> None:
    assert "unknown is not defined" in report["error"]


def test_these_are_all_operators_that_launch_kernels() -> None:
    package = drama_torchrl.kernels
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    modules = [importlib.import_module(info.name) for info in found]
    operators = {
        member
        for module in modules
        for member in vars(module).values()
        if isinstance(member, CustomOpDef)
    }
    assert {operator()[0] for operator in OPERATORS.values()} == operators
