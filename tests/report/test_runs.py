"""A directory counts only if everything in it says the same complete run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from drama_torchrl.record.reading import UnusableRunError, count_episodes, read_score
from drama_torchrl.report.runs import collect_runs, read_run
from tests.report.run_files import change_result, write_evaluation, write_run


def test_a_complete_run_is_read(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", "Pong", 3, minutes=90.0, film=True))
    assert (run.game, run.seed, run.training, run.final) == ("Pong", 3, 6.0, 9.0)
    assert run.episodes[-1] == (100_000, 8.0)
    assert run.hours == 1.5
    assert run.device == "NVIDIA H200"
    assert run.commit == "0123456789abcdef"
    assert run.film == tmp_path / "run" / "films" / "step-0100000.gif"


def test_a_kept_result_has_its_film_beside_the_scores(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", film=True)
    for name in ("step-0005000.gif", "step-0100000.gif"):
        shutil.copy(path / "films" / "step-0100000.gif", path / name)
    shutil.rmtree(path / "films")
    assert read_run(path).film == path / "step-0100000.gif"


def test_a_film_comes_before_a_strip_however_old(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", film=True)
    (path / "films" / "step-0200000.png").touch()
    assert read_run(path).film == path / "films" / "step-0100000.gif"


def test_names_of_games_are_those_of_the_emulator(tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "run", "ms_pacman")).game == "MsPacman"


def test_a_run_of_unknown_origin_still_counts(tmp_path: Path) -> None:
    path = change_result(write_run(tmp_path / "run"), {"provenance": None})
    run = read_run(path)
    assert (run.device, run.commit, run.on_gpu) == ("", "", False)


@pytest.mark.parametrize(
    ("device", "options", "on_gpu"),
    [
        ("NVIDIA H200", [], True),
        ("AMD Instinct MI300X", [], True),
        ("AMD Ryzen 7 5800U with Radeon Graphics", [], False),
        ("Intel(R) Xeon(R) Platinum", [], False),
        ("NVIDIA Grace", ["execution.device=cpu"], False),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_gpu_is_told_from_a_cpu(
    tmp_path: Path, device: str, options: list[str], on_gpu: bool
) -> None:
    path = write_run(tmp_path / "run", device=device, options=options)
    assert read_run(path).on_gpu is on_gpu


def remove(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).unlink()


def overwrite(name: str, text: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text(text)


def change(**changes: object) -> Callable[[Path], object]:
    return lambda path: change_result(path, changes)


def take_files_of(name: str, **other: str) -> Callable[[Path], object]:
    """Put a file of another run into a run."""

    def spoil(path: Path) -> None:
        options = [f"{k.replace('__', '.')}={v}" for k, v in other.items()]
        donor = write_run(path.with_name("donor"), options=options, training=20.0)
        shutil.copy(donor / name, path / name)

    return spoil


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (shutil.rmtree, "foreign: .* no such directory"),
    "no config": (remove("config.yaml"), "foreign: no config.yaml"),
    "broken config": (overwrite("config.yaml", "a: [1"), "damaged: config.yaml"),
    "empty config": (overwrite("config.yaml", "- 1"), "foreign: config.yaml"),
    "no result": (remove("result.json"), "incomplete: no result.json"),
    "half a result": (overwrite("result.json", '{"ga'), "damaged: result.json"),
    "another file": (overwrite("result.json", "[1]"), "foreign: result.json holds no"),
    "no seed": (change(seed=None), "foreign: result.json expects seed, got None"),
    "text as steps": (change(steps="100000"), "expects steps, got '100000'"),
    "cut short": (
        change(complete=False, steps=26_213),
        "incomplete: 26213 of 100000 steps",
    ),
    "too few steps": (change(steps=99_999), "incomplete: 99999 of 100000 steps"),
    "not flagged": (change(complete=False), "incomplete: 100000 of 100000 steps"),
    "not evaluated": (change(sampled=None), "incomplete: 0 of 2 final episodes"),
    "half evaluated": (
        change(sampled={"mean": 9.0, "returns": [9.0]}),
        "incomplete: 1 of 2 final episodes",
    ),
    "wrong mean": (
        change(sampled={"mean": 50.0, "returns": [8.0, 10.0]}),
        "damaged: the mean of 'sampled' .* 50.0",
    ),
    "not a number": (
        change(sampled={"mean": float("nan"), "returns": [8.0, float("nan")]}),
        "damaged: the mean of 'sampled'",
    ),
    "infinite": (
        change(sampled={"mean": float("inf"), "returns": [8.0, float("inf")]}),
        "damaged: the mean of 'sampled'",
    ),
    "no episode": (
        change(training={"mean": None, "returns": []}),
        "incomplete: no 'training' episodes",
    ),
    "no curve": (remove("episodes.csv"), "incomplete: no episodes.csv"),
    "broken curve": (
        overwrite("episodes.csv", "step,return\n1,x\n"),
        "damaged: episodes.csv",
    ),
    "another curve": (take_files_of("episodes.csv"), "foreign: episodes.csv"),
    "another config": (
        take_files_of("config.yaml", acting__latent="prior"),
        r"foreign: .* they differ in acting.latent \('prior', 'posterior'\)",
    ),
    "another result": (
        take_files_of("result.json", seed="7"),
        r"differ in seed \(1, 7",
    ),
    "mixed result": (change(seed=7), r"foreign: .* they differ in seed \(1, 7\)$"),
    "another game": (change(game="Pong"), r"differ in env.game \('Boxing', 'Pong'\)"),
    "another preset": (change(preset="s"), r"differ in preset \('xs', 's'\)"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_run_is_named_with_the_reason_and_left_out(
    tmp_path: Path, case: str
) -> None:
    spoil, reason = SPOILED[case]
    good = write_run(tmp_path / "good", seed=2)
    bad = write_run(tmp_path / "bad")
    spoil(bad)
    found = collect_runs([bad, good])
    assert [run.path for run in found.runs] == [good]
    (refusal,) = found.refused
    assert refusal.path == bad
    with pytest.raises(UnusableRunError, match=reason):
        raise UnusableRunError(refusal.reason)


def test_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    (refusal,) = collect_runs([tmp_path / "notes.txt"]).refused
    assert refusal.reason == "foreign: expected a run directory, got a file"


def test_a_name_that_no_directory_can_have_is_left_out(tmp_path: Path) -> None:
    (refusal,) = collect_runs([tmp_path / ("x" * 300)]).refused
    assert refusal.reason == "foreign: expected a run directory, got no such directory"


def test_a_game_outside_the_benchmark_is_foreign(tmp_path: Path) -> None:
    (refusal,) = collect_runs([write_run(tmp_path / "run", "SpaceInvaders")]).refused
    assert "'SpaceInvaders' is none of the 26 games" in refusal.reason


class TestDuplicates:
    def test_of_two_equal_runs_the_first_counts(self, tmp_path: Path) -> None:
        first = write_run(tmp_path / "first", final=9.0)
        # Another place and device: the same experiment, not a second seed.
        options = ["execution.compile=true", "log.every=7"]
        again = write_run(tmp_path / "again", final=30.0, options=options)
        found = collect_runs([first, again])
        assert [run.final for run in found.runs] == [9.0]
        assert found.refused[0].path == again
        assert found.refused[0].reason == (
            f"duplicate: {first} has the same game, preset, seed and settings and is "
            "counted"
        )

    def test_a_directory_given_twice_counts_once(self, tmp_path: Path) -> None:
        path = write_run(tmp_path / "run")
        (tmp_path / "link").symlink_to(path)
        found = collect_runs([path, path, tmp_path / "link"])
        assert len(found.runs) == 1
        assert {refusal.reason for refusal in found.refused} == {
            "duplicate: the same directory was given before"
        }

    def test_an_incomplete_run_does_not_take_the_place_of_its_repetition(
        self, tmp_path: Path
    ) -> None:
        cut = change_result(write_run(tmp_path / "cut"), {"complete": False})
        whole = write_run(tmp_path / "whole")
        assert [run.path for run in collect_runs([cut, whole]).runs] == [whole]

    @pytest.mark.parametrize(
        "other",
        [
            {"seed": 2},
            {"game": "Pong"},
            {"options": ["acting.latent=prior"]},
        ],
        ids=["seed", "game", "setting"],
    )
    def test_what_differs_in_anything_that_counts_is_none(
        self, tmp_path: Path, other: dict[str, object]
    ) -> None:
        paths = [
            write_run(tmp_path / "one"),
            write_run(tmp_path / "two", **other),  # type: ignore[arg-type]
        ]
        assert len(collect_runs(paths).runs) == 2


class TestScoredAgain:
    def test_its_episodes_count(self, tmp_path: Path) -> None:
        options = ["execution.device=cpu", "evaluation.greedy_episodes=7"]
        path = write_run(tmp_path / "run", final=9.0)
        run = read_run(write_evaluation(path, [2.0, 3.0, 7.0], *options))
        assert (run.final, run.final_episodes) == (4.0, 3)

    def test_more_episodes_of_the_run_itself_count(self, tmp_path: Path) -> None:
        path = write_run(tmp_path / "run", final=9.0)
        run = read_run(write_evaluation(path, [2.0]))
        assert (run.final, run.final_episodes) == (9.0, 2)

    def test_a_run_that_ended_before_its_final_episodes_counts(
        self, tmp_path: Path
    ) -> None:
        path = change_result(write_run(tmp_path / "run"), {"sampled": None})
        assert read_run(write_evaluation(path, [4.0])).final == 4.0

    @pytest.mark.parametrize(
        "options",
        [["seed=2"], ["acting.latent=prior"], ["env.max_frames=40"]],
        ids=["seed", "way of acting", "protocol"],
    )
    def test_episodes_under_other_options_do_not(
        self, tmp_path: Path, options: list[str]
    ) -> None:
        path = write_run(tmp_path / "run", final=9.0)
        assert read_run(write_evaluation(path, [1.0] * 100, *options)).final == 9.0

    def test_an_option_that_came_after_the_run_does_not_matter(
        self, tmp_path: Path
    ) -> None:
        path = write_evaluation(write_run(tmp_path / "run"), [4.0, 4.0])
        evaluation = json.loads((path / "evaluation.json").read_text())
        evaluation["config"]["acting"]["temperature"] = 1.0
        (path / "evaluation.json").write_text(json.dumps(evaluation))
        assert read_run(path).final == 4.0

    def test_episodes_of_an_earlier_checkpoint_do_not(self, tmp_path: Path) -> None:
        path = write_run(tmp_path / "run", final=9.0)
        assert read_run(write_evaluation(path, [1.0] * 9, steps=80_000)).final == 9.0

    @pytest.mark.parametrize("text", ["[1]", '{"sampled": {"mean": 1.0}}'])
    def test_a_file_that_names_no_run_does_not(self, tmp_path: Path, text: str) -> None:
        path = write_run(tmp_path / "run", final=9.0)
        (path / "evaluation.json").write_text(text)
        assert read_run(path).final == 9.0

    def test_a_damaged_file_is_told(self, tmp_path: Path) -> None:
        path = write_run(tmp_path / "run")
        (path / "evaluation.json").write_text('{"ga')
        with pytest.raises(UnusableRunError, match=r"damaged: evaluation.json cannot"):
            read_run(path)

    def test_a_mean_that_is_not_that_of_its_returns_is_told(
        self, tmp_path: Path
    ) -> None:
        path = write_evaluation(write_run(tmp_path / "run"), [2.0, 4.0])
        text = (path / "evaluation.json").read_text()
        (path / "evaluation.json").write_text(text.replace('"mean": 3.0', '"mean": 5'))
        with pytest.raises(UnusableRunError, match=r"in evaluation.json, 5, is not"):
            read_run(path)


@pytest.mark.parametrize(
    "scores", [None, 3, {"mean": 1.0}, {"mean": 1, "returns": "1"}]
)
def test_a_section_without_readable_returns_is_no_score(scores: object) -> None:
    with pytest.raises(UnusableRunError, match="sampled"):
        read_score({"sampled": scores}, "sampled")
    assert count_episodes({"sampled": scores}, "sampled") is None


def test_a_result_whose_copy_of_the_options_is_foreign_is_left_out(
    tmp_path: Path,
) -> None:
    path = write_run(tmp_path / "run")
    config = json.loads((path / "result.json").read_text())["config"]
    change_result(path, {"config": config | {"seed": 7}})
    (refusal,) = collect_runs([path]).refused
    assert refusal.reason.endswith("they differ in seed (1, 7)")
