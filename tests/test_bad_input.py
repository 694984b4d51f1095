"""Bad input gets a clear error, and nothing that was there before is lost."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tensordict import TensorDictBase
from torchrl.data import Unbounded

from drama_torchrl.config import list_options
from drama_torchrl.factories import make_agent, with_agent_transforms
from drama_torchrl.record.checkpoint import load_checkpoint
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.stopping import StopSignals
from recipes import drama_atari100k, evaluate
from tests.reference.lit_side import FRAME_SIZE, LitSideEnv
from tests.reference.tiny import tiny_config
from tests.reference.tiny_run import run_options

Action = Callable[[Path], object]


def start(*options: str) -> Action:
    """Start a run in a new directory, with these options after good ones."""
    return lambda path: drama_atari100k.main(run_options(path / "new", *options))


def start_in(name: str) -> Action:
    return lambda path: drama_atari100k.main(run_options(path / name))


def score(name: str) -> Action:
    return lambda path: evaluate.main([str(path / name)])


REFUSED: dict[str, tuple[Action, str]] = {
    "unknown game": (
        start("env.game=Bixing"),
        r"Expected the name of an Atari game, got 'Bixing'.*Did you mean Boxing",
    ),
    "unknown game, nothing near": (
        start("env.game=Zzzzzz"),
        r"got 'Zzzzzz'.*list_games\(\) lists all \d+ names",
    ),
    "misspelt option": (
        start("behaviour.horizn=3"),
        r"unknown option 'behaviour\.horizn': did you mean 'behaviour\.horizon'\?",
    ),
    "misspelt group": (
        start("wrold_model.filters=[8]"),
        r"did you mean 'world_model\.filters'\?",
    ),
    "unknown option": (
        start("zzz=3"),
        r"expected one of preset, seed, run_dir, env\.\*, replay\.\*, world_model\.\*, "
        r"behaviour\.\*, acting\.\*, training\.\*, evaluation\.\*, execution\.\*, "
        r"log\.\*",
    ),
    "unknown option of a group": (
        start("acting.zzz=3"),
        r"expected one of acting\.latent, acting\.memory, acting\.window",
    ),
    "no option": (start("Pong"), r"expected key=value, got 'Pong'"),
    "unknown preset": (
        start("preset=quik"),
        r"unknown preset 'quik': did you mean 'quick'",
    ),
    "word for a number": (start("seed=one"), r"seed: expected int, got 'one'"),
    "number for a list": (
        start("world_model.filters=8"),
        r"world_model\.filters: expected list\[int\], got 8",
    ),
    "window longer than the buffer": (
        start("replay.capacity=7"),
        r"replay\.model_window: expected at most replay\.capacity=7 steps, got 8",
    ),
    "batch larger than the starts": (
        start("replay.imagination_batch=58"),
        r"imagination_batch: expected at most 57, .*random_steps=60 steps, got 58",
    ),
    "heads that do not divide the width": (
        start("world_model.head_dim=48"),
        r"head_dim: expected a divisor of d_model\*expand=32\*2=64, got 48",
    ),
    "horizon 0": (
        start("behaviour.horizon=0"),
        r"behaviour\.horizon: expected a whole number, at least 1, got 0",
    ),
    "directory of another run": (
        start_in("finished"),
        r"run_dir=.*finished: expected a new or empty directory, got one that holds "
        r"checkpoint\.pt, config\.yaml.*; choose another run_dir",
    ),
    "directory that is a file": (
        start_in("notes.txt"),
        r"notes\.txt: expected a new or empty directory, got a file",
    ),
    "damaged checkpoint": (
        score("finished"),
        r"checkpoint\.pt: expected a whole checkpoint, got a damaged, truncated or",
    ),
    "no checkpoint": (
        score("nowhere"),
        r"checkpoint\.pt: expected a checkpoint, got no such file",
    ),
}

CUDA = (
    start("execution.device=cuda"),
    r"execution\.device=cuda expects a CUDA GPU.*use execution\.device=cpu",
)
CUDA_REPLAY = (start("replay.device=cuda"), r"expects a CUDA GPU")
without_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="needs a machine without CUDA"
)


def missing_extra(name: str) -> object:
    message = (
        rf"log\.logger={name} expects the package {name}, which is not installed; "
        rf"pip install 'drama_torchrl\[{name}\]'"
    )
    installed = find_spec(name) is not None
    return pytest.param(
        start(f"log.logger={name}"),
        message,
        id=f"missing {name}",
        marks=pytest.mark.skipif(installed, reason=f"{name} is installed"),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run with a damaged checkpoint, and a file."""
    finished = tmp_path / "finished"
    finished.mkdir()
    for name in ("checkpoint.pt", "config.yaml", "metrics.csv", "result.json"):
        (finished / name).write_text(f"contents of {name}")
    (tmp_path / "notes.txt").write_text("notes")
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        *(pytest.param(*case, id=name) for name, case in REFUSED.items()),
        pytest.param(*CUDA, id="CUDA that is absent", marks=without_cuda),
        pytest.param(*CUDA_REPLAY, id="frames on absent CUDA", marks=without_cuda),
        *map(missing_extra, ("tensorboard", "wandb", "mlflow")),
    ],
)
def test_it_is_explained_and_changes_nothing(
    folder: Path, act: Action, message: str
) -> None:
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        act(folder)
    assert contents(folder) == before
    # The same run directory can be used once the input is repaired.
    assert not (folder / "new").exists()


def test_every_option_of_a_group_is_offered(folder: Path) -> None:
    groups = {option.partition(".")[0] for option in list_options() if "." in option}
    for group in groups:
        with pytest.raises(ValueError, match=f"unknown option '{group}.zzzz'") as error:
            start(f"{group}.zzzz=1")(folder)
        offered = [name for name in list_options() if name.startswith(f"{group}.")]
        assert ", ".join(offered) in str(error.value)


class RewardingEnv(LitSideEnv):
    """Gives ``reward`` at its 12th step, whatever the episode."""

    def __init__(self, reward: float) -> None:
        super().__init__(seed=0)
        self.reward = reward
        self.count = 0

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        stepped = super()._step(tensordict)
        self.count += 1
        if self.count == 12:
            stepped["reward"] = torch.tensor([self.reward])
        return stepped


class WideEnv(LitSideEnv):
    """Its frames are wider than they are high."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        frame = Unbounded((3, FRAME_SIZE, FRAME_SIZE + 4), dtype=torch.uint8)
        self.observation_spec["pixels"] = frame

    def _frame(self) -> torch.Tensor:
        return torch.nn.functional.pad(super()._frame(), (0, 4))


class FloatEnv(LitSideEnv):
    """Its frames are scaled already."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        frame = Unbounded((3, FRAME_SIZE, FRAME_SIZE), dtype=torch.float32)
        self.observation_spec["pixels"] = frame

    def _frame(self) -> torch.Tensor:
        return super()._frame() / 255.0


@pytest.mark.parametrize(
    ("make_env", "message", "saved"),
    [
        (
            lambda: RewardingEnv(float("nan")),
            r"'reward' to be a finite number, got \[nan\].*was not stored; repair",
            True,
        ),
        (
            lambda: RewardingEnv(float("-inf")),
            r"'reward' to be a finite number, got \[-inf\]",
            True,
        ),
        (
            WideEnv,
            r"uint8 frame of shape \(3, 16, 16\), got torch.uint8 of shape "
            r"\(3, 16, 20\)\. Resize",
            False,
        ),
        (
            FloatEnv,
            r"uint8 frame of shape \(3, 16, 16\), got torch.float32",
            False,
        ),
    ],
    ids=["NaN reward", "infinite reward", "wide frames", "float frames"],
)
def test_a_broken_environment_stops_the_run_and_keeps_what_was_saved(
    tmp_path: Path, make_env: Callable[[], LitSideEnv], message: str, saved: bool
) -> None:
    config = tiny_config("log.progress=false", "log.checkpoint_every=5")
    env = with_agent_transforms(make_env(), frame_size=FRAME_SIZE)
    agent = make_agent(config, 2, torch.device("cpu"))
    run = RunDirectory.create(tmp_path / "run", config)
    with pytest.raises(ValueError, match=message):
        drama_atari100k.train(config, agent, env, run, StopSignals(run.path))
    assert run.checkpoint.exists() == saved
    if saved:
        assert load_checkpoint(run.checkpoint, "cpu")["step"] == 11
