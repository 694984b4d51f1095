"""What no place of a sweep can give is refused wherever it would run."""

from __future__ import annotations

import pytest

from drama_torchrl.config import ConfigError
from drama_torchrl.sweep.backend import make_backend
from drama_torchrl.sweep.plan import make_plan


@pytest.mark.parametrize("cluster", ["local", "ray"])
def test_runs_on_two_gpus_each_are_refused(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    option = "execution.behaviour_device=own"
    plan = make_plan(["games=Pong", "seeds=1", f"cluster={cluster}", option])
    message = (
        r"execution\.behaviour_device: expected auto in a sweep, .* got 'own'; leave it"
    )
    with pytest.raises(ConfigError, match=message), make_backend(plan):
        pass
