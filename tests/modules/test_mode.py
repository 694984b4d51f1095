"""Modes last as long as their block, for every module inside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from torch import nn

from drama_torchrl.modules.mode import evaluating, training

Mode = Callable[..., AbstractContextManager[None]]
modes = pytest.mark.parametrize(
    ("mode", "trains"), [(evaluating, False), (training, True)], ids=["eval", "train"]
)


def parts(*modules: nn.Module) -> list[bool]:
    return [part.training for module in modules for part in module.modules()]


def make_module() -> nn.Sequential:
    return nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2)))


@modes
@pytest.mark.parametrize("before", [True, False], ids=["trained", "evaluated"])
def test_all_modules_change_and_change_back(
    mode: Mode, trains: bool, before: bool
) -> None:
    one, other = make_module().train(before), make_module().train(not before)
    outside = parts(one, other)
    with mode(one, other):
        assert set(parts(one, other)) == {trains}
    assert parts(one, other) == outside


@modes
@pytest.mark.parametrize("whole", [True, False], ids=["trained", "evaluated"])
def test_a_part_in_another_mode_than_the_whole_changes_and_changes_back(
    mode: Mode, trains: bool, whole: bool
) -> None:
    module = make_module().train(whole)
    module[1].train(not whole)
    outside = parts(module)
    with mode(module):
        assert set(parts(module)) == {trains}
    assert parts(module) == outside


@modes
def test_an_error_inside_changes_back_too(mode: Mode, trains: bool) -> None:
    module = make_module().train(not trains)
    with pytest.raises(KeyError), mode(module):
        raise KeyError
    assert set(parts(module)) == {not trains}
