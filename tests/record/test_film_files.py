"""Films as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageSequence
from tensordict import TensorDict

from drama_torchrl.config import load_config
from drama_torchrl.factories import make_world_model
from drama_torchrl.record.film import Film
from drama_torchrl.record.film_files import save_film_strip, save_gif, write_film
from drama_torchrl.record.run_directory import RunDirectory
from tests.reference.tiny import ACTIONS, real_batch, tiny_config


def count_frames(gif: Image.Image) -> int:
    return sum(1 for _ in ImageSequence.Iterator(gif))


COLOURS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)


def test_a_gif_shows_every_frame_enlarged_at_its_speed(tmp_path: Path) -> None:
    frames = COLOURS[:, :, None, None].repeat(1, 1, 2, 4)
    frames[:, :, 0, 0] = 255
    save_gif(frames, tmp_path / "film.gif", fps=10)
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.size == (12, 6)
        assert count_frames(gif) == 3
        assert gif.info["loop"] == 0
        for t, colour in enumerate(COLOURS.tolist()):
            gif.seek(t)
            assert gif.info["duration"] == 100
            image = gif.convert("RGB")
            assert image.getpixel((11, 5)) == tuple(colour)
            # One white pixel became nine.
            white = [
                image.getpixel((x, y)) == (255,) * 3 for x in range(4) for y in (2, 3)
            ]
            assert white == [True, False] * 3 + [False, False]


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 8, 8),
    ],
    ids=["one frame", "channels last", "float"],
)
def test_a_gif_is_made_of_frames_alone(tmp_path: Path, frames: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expects uint8 frames \[T, 3, .*, got torch"):
        save_gif(frames, tmp_path / "film.gif")
    assert not list(tmp_path.iterdir())


def make_film(length: int, context: int) -> Film:
    frames = torch.randint(256, (length, 3, 8, 8)).to(torch.uint8)
    reward = torch.arange(float(length))
    ends = torch.arange(length) == length - 1
    return Film(frames, frames.flip(0), context, reward, -reward, ends, ~ends)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: object, **kwargs: object) -> None:
        saved.append(figure)
        save(figure, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


@pytest.mark.parametrize(
    ("length", "context", "columns", "expected"),
    [
        (64, 16, 16, [*range(0, 64, 4)]),
        (6, 2, 16, [0, 1, 2, 3, 4, 5]),
        (9, 8, 2, [3, 8]),
        (10, 9, 3, [1, 5, 9]),
    ],
)
def test_a_strip_has_a_column_for_the_first_imagined_step(
    tmp_path: Path,
    figures: list[Figure],
    length: int,
    context: int,
    columns: int,
    expected: list[int],
) -> None:
    save_film_strip(make_film(length, context), tmp_path / "s.png", columns=columns)
    titles = [axes.get_title() for axes in figures[0].axes]
    steps = [int(title.split()[1]) for title in titles if title.startswith("step")]
    assert steps == expected
    assert context in steps
    assert len(steps) <= columns


def test_a_strip_frames_what_is_imagined_and_prints_rewards(
    tmp_path: Path, figures: list[Figure]
) -> None:
    film = make_film(4, 2)
    save_film_strip(film, tmp_path / "strip.png")
    real, model = figures[0].axes[0:12:3], figures[0].axes[1:12:3]
    colours = [axes.spines["top"].get_edgecolor() for axes in model]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert all(axes.spines["top"].get_edgecolor() == colours[0] for axes in real)
    assert real[3].get_title() == "step 3\n$r$ 3  $\\hat{r}$ -3"
    shown = np.asarray(model[3].images[0].get_array())
    assert (shown == film.model[3].permute(1, 2, 0).numpy()).all()
    legend = figures[0].axes[-1].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["real", "predicted", "real end", "predicted end"]


def test_the_smallest_rewards_are_written_out(
    tmp_path: Path, figures: list[Figure]
) -> None:
    film = make_film(4, 2)
    save_film_strip(
        replace(film, reward=1e-6 * film.reward, predicted_reward=0 * film.reward),
        tmp_path / "strip.png",
    )
    axis = figures[0].axes[-1].yaxis
    assert axis.get_offset_text().get_text() == ""
    assert "1e−06" in [label.get_text() for label in axis.get_ticklabels()]


def test_a_strip_needs_a_column(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 column or more, got 0"):
        save_film_strip(make_film(4, 2), tmp_path / "strip.png", columns=0)


@pytest.mark.parametrize("length", [2, 40])
def test_a_run_keeps_a_film_and_its_strip(tmp_path: Path, length: int) -> None:
    world_model = make_world_model(tiny_config(), ACTIONS)
    run = RunDirectory.create(tmp_path / "run", load_config("quick"))
    sequence: TensorDict = real_batch(1, length)
    write_film(world_model, sequence, run, 1234)
    assert sorted(path.name for path in run.films.iterdir()) == [
        "step-0001234.gif",
        "step-0001234.png",
    ]
    with Image.open(run.films / "step-0001234.gif") as gif:
        assert gif.size == (3 * (3 * 16 + 4), 3 * 16)
        assert count_frames(gif) == length


def test_a_film_needs_no_directory_of_films(tmp_path: Path) -> None:
    world_model = make_world_model(tiny_config(), ACTIONS)
    run = RunDirectory.create(tmp_path / "run", load_config("quick"))
    run.films.rmdir()
    write_film(world_model, real_batch(1, 2), run, 7)
    assert (run.films / "step-0000007.png").is_file()
