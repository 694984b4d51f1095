"""On a real cluster of two nodes, runs share what there is, fail alone, and move on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from drama_torchrl.config import ConfigError
from drama_torchrl.sweep.backend import make_backend
from drama_torchrl.sweep.local import Command, interruptible
from drama_torchrl.sweep.lock import claimed, is_written
from drama_torchrl.sweep.plan import make_plan
from drama_torchrl.sweep.ray_cluster import Needs, count_places, find_needs
from drama_torchrl.sweep.slots import Slot
from recipes.sweep_atari100k import main
from tests.recipes.test_sweep import TINY, read_rows
from tests.reference.ray_nodes import RayNodes, ray_nodes

REPOSITORY = Path(__file__).parents[2]
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="needs ray, which has no wheel for this Python"
)
POLITE = """
import time
print("up")
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("bye")
    raise SystemExit(3)
"""
SLOW_TO_STOP = POLITE.replace("    print", "    time.sleep(8)\n    print")
RECIPE = REPOSITORY / "recipes" / "sweep_atari100k.py"
STEPS = 160


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY), prepend=os.pathsep)
        with ray_nodes() as cluster:
            yield cluster


def plan_arguments(nodes: RayNodes, out: Path, *more: str) -> list[str]:
    games = "games=Pong,Alien"
    where = ("cluster=ray", f"ray_address={nodes.address}", f"out={out}")
    return [games, "seeds=1", *where, "execution.device=cpu", *more]


def run_python(
    nodes: RayNodes,
    out: Path,
    codes: Mapping[str, str],
    *,
    watch: Callable[[Mapping[str, Slot]], None] = lambda running: None,
    prepared: list[str] | None = None,
) -> dict[str, str]:
    """Run Python code on the cluster; each has a log of its name."""

    def prepare(name: str) -> Command:
        if prepared is not None:
            prepared.append(name)
        words = [sys.executable, "-S", "-c", codes[name]]
        return Command(name, words, out.absolute() / f"{name}.log")

    plan = make_plan(plan_arguments(nodes, out))
    with make_backend(plan) as backend, claimed(plan.out) as lock, interruptible():
        return backend.run_commands(
            [*codes],
            prepare=prepare,
            watch=lambda running, outcomes: watch(running),
            keep_open=[lock],
            every=0.1,
        )


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def says(log: Path, text: str) -> bool:
    return log.exists() and text in log.read_text()


def read_steps(run: Path) -> list[int]:
    if not (run / "metrics.csv").exists():
        return []
    rows = (run / "metrics.csv").read_text().splitlines()[1:]
    return [int(row.partition(",")[0]) for row in rows]


class TestNeeds:
    GPUS = ({"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0})

    @pytest.mark.parametrize(
        ("options", "nodes", "needs", "places"),
        [
            ([], GPUS, Needs(1, 1.0), 2),
            (["per_gpu=3"], GPUS, Needs(1, 1 / 3), 6),
            (["per_gpu=2", "cpus=3"], GPUS, Needs(3, 0.5), 2),
            (["execution.device=cpu", "cpus=3"], GPUS, Needs(3, 0.0), 3),
            ([], GPUS[:1], Needs(1, 0.0), 4),
        ],
    )
    def test_each_run_asks_for_a_share_of_a_gpu_or_for_cpus(
        self,
        options: list[str],
        nodes: Sequence[Mapping[str, float]],
        needs: Needs,
        places: int,
    ) -> None:
        plan = make_plan(["games=Pong", "seeds=1", "cluster=ray", *options])
        found = find_needs(plan, nodes)
        assert found == needs
        assert count_places(found, nodes) == places

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("cpus=5", "a node with 5 CPUs and 0 GPUs for each run, got 1 nodes"),
            ("execution.device=cuda", "1 CPUs and 1 GPUs"),
            ("per_gpu=2", "per_gpu: expected on GPUs alone"),
        ],
    )
    def test_what_no_node_can_give_is_refused(self, option: str, message: str) -> None:
        plan = make_plan(["games=Pong", "seeds=1", "cluster=ray", option])
        with pytest.raises(ConfigError, match=message):
            find_needs(plan, self.GPUS[:1])


@needs_ray
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "expected a Ray cluster, got .* refused; start one with `ray"),
        ("ray://127.0.0.1:10001", "got that of a Ray client; start the sweep on a no"),
        ("nonsense", "expected a Ray cluster, got Invalid address format"),
    ],
)
def test_an_address_that_leads_nowhere_is_explained(address: str, message: str) -> None:
    plan = make_plan(["games=Pong", "seeds=1", "cluster=ray", f"ray_address={address}"])
    with pytest.raises(ConfigError, match=message), make_backend(plan):
        pass


def test_without_ray_one_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = make_plan(["games=Pong", "seeds=1", "cluster=ray"])
    with (
        pytest.raises(ConfigError, match=r"pip install 'drama_torchrl\[ray\]'"),
        make_backend(plan),
    ):
        pass


def test_the_local_backend_needs_no_ray() -> None:
    """TorchRL imports Ray where it finds it, so here it finds none."""
    code = """
import sys
sys.modules["ray"] = None
from drama_torchrl.sweep import make_backend, make_plan
plan = make_plan(["games=Pong", "seeds=1", "execution.device=cpu"])
with make_backend(plan):
    assert "drama_torchrl.sweep.ray_cluster" not in sys.modules
import drama_torchrl.sweep.ray_cluster
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@needs_ray
@pytest.mark.slow
class TestCluster:
    def test_commands_fail_alone_and_use_every_node(
        self, nodes: RayNodes, tmp_path: Path
    ) -> None:
        seen: set[str] = set()
        most = 0

        def watch(running: Mapping[str, Slot]) -> None:
            nonlocal most
            seen.update(slot.name for slot in running.values())
            most = max(most, len(running))

        show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'] + '|')"
        codes = {
            "code": "print('out'); raise SystemExit(4)",
            "killed": "import os; os.kill(os.getpid(), 9)",
            "good": f"{show}; import time; time.sleep(1)",
            "also_good": "import time; time.sleep(1)",
        }
        (tmp_path / "good.log").write_text("before\n")
        outcomes = run_python(nodes, tmp_path, codes, watch=watch)
        assert outcomes == {
            "code": "exit code 4",
            "killed": "killed by SIGKILL",
            "good": "",
            "also_good": "",
        }
        assert (tmp_path / "code.log").read_text() == "out\n"
        assert (tmp_path / "good.log").read_text() == "before\n|\n"
        assert seen == {"first", "second"}
        assert most in (2, 3)  # CPUs; two end at once

    def test_a_directory_that_nodes_do_not_share_is_explained(
        self, nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same path is another directory for each process here."""
        monkeypatch.chdir(tmp_path)
        out = Path("/proc/self/cwd/sweep")
        outcomes = run_python(nodes, out, {"run": "print(1)"})
        expected = r": expected /proc/self/cwd/sweep to be on a file system that all"
        assert outcomes["run"].partition(" machines")[0] in (
            f"first{expected}",
            f"second{expected}",
        )
        assert not (tmp_path / "sweep" / "run.log").exists()

    def test_an_interrupt_lets_commands_end_by_themselves(
        self, nodes: RayNodes, tmp_path: Path
    ) -> None:
        logs = [tmp_path / f"{name}.log" for name in ("a", "b", "c", "later")]

        interrupted: list[float] = []

        def interrupt() -> None:
            wait_for(lambda: all(says(log, "up") for log in logs[:3]))
            interrupted.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run_python(nodes, tmp_path, dict.fromkeys(["a", "b", "c", "later"], POLITE))
        # Long before anybody would lose patience with them.
        assert time.monotonic() < interrupted[0] + 15
        thread.join()
        assert [log.read_text() for log in logs[:3]] == ["up\nbye\n"] * 3
        assert not logs[3].exists()

    def test_what_a_killed_sweep_leaves_behind_ends_and_is_waited_for(
        self, nodes: RayNodes, tmp_path: Path
    ) -> None:
        code = f"""
from pathlib import Path
from tests.sweep.test_ray_cluster import SLOW_TO_STOP, RayNodes, run_python
nodes = RayNodes.__new__(RayNodes)
nodes.address = {nodes.address!r}
run_python(nodes, Path({str(tmp_path)!r}), {{"Pong-seed1": SLOW_TO_STOP}})
"""
        log = tmp_path / "Pong-seed1.log"
        sweep = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
        wait_for(lambda: says(log, "up"))
        sweep.kill()
        sweep.wait()
        with pytest.raises(ConfigError, match="Pong-seed1 to have ended, got one"):
            main(plan_arguments(nodes, tmp_path, *TINY))
        wait_for(lambda: not is_written(log))
        assert log.read_text() == "up\nbye\n"

    def test_a_run_survives_its_node_and_its_sweep(
        self, nodes: RayNodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "sweep"
        run, log = out / "Pong-seed1", out / "Pong-seed1.log"
        options = ["cpus=2", *TINY, f"training.total_steps={STEPS}"]
        arguments = plan_arguments(nodes, out, "games=Pong", *options)
        process = subprocess.Popen(
            [sys.executable, str(RECIPE), *arguments], stdout=subprocess.PIPE, text=True
        )
        wait_for(lambda: len(read_steps(run)) > 1)
        nodes.kill("second")
        nodes.add("third", cpus=2)
        wait_for(lambda: says(log, "stopped; to go on"))
        before = len(read_steps(run))
        wait_for(lambda: len(read_steps(run)) > before + 1)
        process.terminate()
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "node lost 1 times, waits for another" in said
        assert "stopped; to continue" in said
        assert read_rows(out)["Pong-seed1"]["state"] == "stopped"
        assert not is_written(log)
        assert log.read_text().count("stopped; to go on") == 2

        assert main(arguments) == 0
        assert "  third\n" in capsys.readouterr().out
        assert read_rows(out)["Pong-seed1"]["state"] == "complete"
        assert read_steps(run) == list(range(24, STEPS + 1, 4))
        assert list(out.glob("*partial*")) == []

        assert main(arguments) == 0
        assert read_rows(out)["Pong-seed1"]["state"] == "skipped"
