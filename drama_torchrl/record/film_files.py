"""Films as files: moving as a GIF, on one page as a strip."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from tensordict import TensorDictBase
from torch import Tensor

from drama_torchrl.modules.world_model import WorldModel
from drama_torchrl.record.atomic import replacing
from drama_torchrl.record.film import Film, imagination_film
from drama_torchrl.record.run_directory import RunDirectory

__all__ = ["save_film_strip", "save_gif", "write_film"]

_SEEN = "#bbbbbb"
_IMAGINED = "#ff7f0e"


def write_film(
    world_model: WorldModel,
    sequence: TensorDictBase,
    run: RunDirectory,
    step: int,
    *,
    context: int = 16,
) -> None:
    """Film imagination beside reality; write a GIF and a strip into a run's films.

    Args:
        world_model: the model.
        sequence: real transitions ``[1, T]`` of Atari, at least 2 of them.
        run: the run whose ``films`` they join; made where it is missing.
        step: environment steps so far; names the files.
        context: steps that the model sees; at most half of the sequence.
    """
    film = imagination_film(
        world_model,
        sequence,
        context=min(context, sequence.shape[1] // 2),
        terminated_key=("next", "end-of-life"),
    )
    run.films.mkdir(exist_ok=True)
    save_gif(film.frames(), run.films / f"step-{step:07d}.gif")
    save_film_strip(film, run.films / f"step-{step:07d}.png")


def save_gif(frames: Tensor, path: str | Path, fps: float = 15.0) -> None:
    """Write frames as an endless GIF, three times as large, pixels kept sharp.

    Args:
        frames: uint8 ``[T, 3, height, width]``.
        path: the file; its directory must exist.
        fps: frames per second; a GIF counts in hundredths of a second.

    Raises:
        ValueError: if ``frames`` is something else.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "film.gif")
        >>> save_gif(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), path)
        >>> with Image.open(path) as film:
        ...     film.size, film.n_frames
        ((24, 24), 1)
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(
            "A GIF expects uint8 frames [T, 3, height, width], got "
            f"{frames.dtype} {list(frames.shape)}; add the time dimension or convert."
        )
    large = frames.cpu().repeat_interleave(3, -1).repeat_interleave(3, -2)
    images = [Image.fromarray(frame.numpy()) for frame in large.permute(0, 2, 3, 1)]
    with replacing(path) as temporary:
        images[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=10 * round(100.0 / fps),
            loop=0,
        )


def save_film_strip(film: Film, path: str | Path, *, columns: int = 16) -> None:
    """Draw a film on one page: real, model and difference over time, and rewards.

    The first imagined step always has a column.

    Args:
        film: from :func:`imagination_film`.
        path: the PNG file; its directory must exist.
        columns: most steps to show.

    Raises:
        ValueError: if ``columns`` is below 1.
    """
    if columns < 1:
        raise ValueError(f"A film strip expects 1 column or more, got {columns}.")
    steps = _choose_steps(film, columns)
    figure = Figure(
        figsize=(max(7.0, 1.0 + 0.95 * len(steps)), 5.2), layout="constrained"
    )
    grid = figure.add_gridspec(4, len(steps), height_ratios=[1, 1, 1, 1.1])
    rows = {"real": film.real, "model": film.model, "difference": film.difference}
    for column, t in enumerate(steps):
        for row, (name, frames) in enumerate(rows.items()):
            axes = figure.add_subplot(grid[row, column])
            _draw_frame(axes, frames[t], imagined=row > 0 and t >= film.context)
            if column == 0:
                axes.set_ylabel(name)
            if row == 0:
                axes.set_title(_describe_step(film, t), fontsize=7)
    _draw_rewards(figure.add_subplot(grid[3, :]), film, steps)
    figure.suptitle(
        f"Seen up to step {film.context - 1}, imagined from step {film.context} on "
        "(orange frames) along the real actions",
        fontsize=10,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _choose_steps(film: Film, columns: int) -> list[int]:
    length = film.real.shape[0]
    every = -(-length // columns)
    return list(range(film.context % every, length, every))


def _describe_step(film: Film, t: int) -> str:
    real, predicted = film.reward[t].item(), film.predicted_reward[t].item()
    return f"step {t}\n$r$ {real:.3g}  $\\hat{{r}}$ {predicted:.2g}"


def _draw_frame(axes: Axes, frame: Tensor, *, imagined: bool) -> None:
    axes.imshow(frame.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_edgecolor(_IMAGINED if imagined else _SEEN)
        side.set_linewidth(2.5)


def _draw_rewards(axes: Axes, film: Film, steps: list[int]) -> None:
    time = range(len(film.reward))
    axes.axvspan(film.context - 0.5, len(time) - 0.5, color=_IMAGINED, alpha=0.12, lw=0)
    axes.axvline(film.context - 0.5, color=_IMAGINED)
    axes.plot(time, film.reward, "k-", drawstyle="steps-mid", lw=1, label="real")
    axes.plot(time, film.predicted_reward, "C0.-", lw=1, ms=3, label="predicted")
    ends = {
        "real end": (film.terminated, "kx"),
        "predicted end": (film.predicted_terminated, "C3o"),
    }
    for label, (flags, style) in ends.items():
        where = flags.nonzero().flatten().tolist()
        if where:
            axes.plot(where, [0.0] * len(where), style, mfc="none", label=label)
    axes.set_xlim(-0.5, len(time) - 0.5)
    axes.set_xticks(steps)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("step")
    axes.set_ylabel("reward")
    # A power of ten for the whole axis would stand where the legend is.
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.legend(
        fontsize=7,
        ncols=4,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
    )
