"""Tables of speed measurements, from the JSON that the benchmarks write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.floor import PARTS
from drama_torchrl.gridworld.tables import NAMES
from drama_torchrl.report.table import Table

__all__ = [
    "PART_NAMES",
    "Report",
    "dynamics_tables",
    "format_number",
    "has_times",
    "imagination_tables",
    "measured_modes",
    "parallel_tables",
    "recipe_tables",
    "sampler_tables",
    "ssd_tables",
    "step_tables",
]

Report = Mapping[str, Any]

PART_NAMES = {
    "world_model": "world-model update",
    "imagination": "imagination",
    "actor_critic": "actor-critic update",
    "behaviour": "behaviour update (both)",
    "step": "whole step",
}
_ABSENT = "–"
_GAME_STEPS = 100_000
_VARIANTS = {
    "execution.deterministic=true": ", repeatable",
    "execution.behaviour_device=own": ", the behaviour on a second GPU",
    "replay.device=cpu": ", frames in host memory",
}
_STARTS = {"empty": ", a cold start", "filled": ", a warm start"}


def format_number(value: float | None) -> str:
    """Write a number with three significant digits; a dash if there is none.

    Example:
        >>> format_number(0.12345), format_number(1234.5), format_number(None)
        ('0.123', '1234', '–')
    """
    if value is None:
        return _ABSENT
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def measured_modes(report: Report) -> dict[str, Report]:
    """Modes of a step that agreed and were timed."""
    return {name: mode for name, mode in report["modes"].items() if "parts" in mode}


def has_times(report: Report) -> bool:
    """Tell whether anything was timed."""
    if "modes" in report:
        return bool(measured_modes(report))
    return any("times" in row or "sample" in row for row in report["rows"])


def step_tables(report: Report) -> list[Table]:
    """Floor, measured, ratio and rest of each part; then what each mode is like."""
    modes = measured_modes(report)
    arguments, peaks = report["arguments"], report["peaks"]
    header = ["part", "GFLOP", "GB", "floor ms", *(f"{mode} ms" for mode in modes)]
    rows = [_step_row(part, report["floor"][part], modes) for part in PARTS]
    options = "".join(f" {option}" for option in arguments["overrides"])
    note = (
        f"Preset {arguments['preset']}{options}. {_origin(report)} The floor is the "
        f"larger of arithmetic at {peaks['flop_per_s'] / 1e12:.3g} TFLOP/s and memory "
        f"traffic at {format_number(peaks['bytes_per_s'] / 1e9)} GB/s, both measured "
        "on that machine; `benchmarks/floor.py` says what it counts. Medians; "
        "imagination is a difference of two. The ratio and what is left are of the "
        "smallest time."
    )
    step = Table("A training step", note, [*header, "ratio", "left ms"], rows)
    return [step, _modes_table(report)]


def _step_row(
    part: str, floor: Mapping[str, float], modes: Mapping[str, Report]
) -> list[str]:
    times = [mode["parts"][part]["median_ms"] for mode in modes.values()]
    work = [format_number(floor["flop"] / 1e9), format_number(floor["bytes"] / 1e9)]
    best = min(times, default=None)
    ratio = left = _ABSENT
    if best is not None:
        ratio = f"{best / floor['ms']:.1f}"
        left = format_number(best - floor["ms"])
    known = map(format_number, (floor["ms"], *times))
    return [PART_NAMES[part], *work, *known, ratio, left]


def _modes_table(report: Report) -> Table:
    header = ["mode", "agrees", "metrics", "statistics", "parameters", "start-up s"]
    header += ["start-up GB", "training GB", "steps/s", "minutes a game"]
    note = (
        "Before a time is taken, a mode has to agree with eager updates in float32, "
        "draws fixed: largest relative error of a metric and of a running statistic, "
        "median relative error of what the parameters changed by "
        "(`benchmarks/agreement.py`). GB is the most that was held, at the start with "
        "cuDNN's trials of its algorithms. Steps per second, and minutes for 100 000 "
        "steps, are of training alone."
    )
    rows = [_mode_row(name, mode) for name, mode in report["modes"].items()]
    failures = [
        f"{n}: {m['failure']}" for n, m in report["modes"].items() if "failure" in m
    ]
    return Table("Modes of a step", _with_reasons(note, failures), header, rows)


def _mode_row(name: str, mode: Report) -> list[str]:
    agreement = mode.get("agreement", {})
    agrees = {True: "yes", False: "no"}.get(agreement.get("agrees"), _ABSENT)
    errors = [
        agreement.get("errors", {}).get(kind)
        for kind in ("metric", "statistic", "median_parameter")
    ]
    row = [name, agrees, *(_ABSENT if e is None else f"{e:.0e}" for e in errors)]
    if "parts" not in mode:
        return [*row, *[_ABSENT] * 5]
    step = mode["parts"]["step"]["median_ms"]
    peaks = [_peak(mode.get(name, {})) for name in ("startup_memory", "memory")]
    known = (mode["startup_s"], *peaks, 1e3 / step)
    return [*row, *map(format_number, known), format_number(step * _GAME_STEPS / 6e4)]


def recipe_tables(report: Report) -> list[Table]:
    """Steps per second of the recipe, as the run itself recorded them."""
    header = ["steps", "steps/s", "ms a step", "minutes a run", "checkpoints", "films"]
    numbers = [report[k] for k in ("steps_per_second", "ms_per_step", "minutes_a_run")]
    row = [
        f"{report['from_step']:.0f} to {report['to_step']:.0f}",
        *map(format_number, numbers),
        *(str(report[made]) for made in ("checkpoints", "films")),
        format_number(report["first_trained_s"]),
    ]
    note = (
        "Acting, environment, replay, updates, logging, checkpoints and films; the "
        f"final evaluation is not in it. {_origin(report)} The compilers' caches were "
        f"{report['compile_cache']}. Options: `{' '.join(report['options'])}`."
    )
    compiled = "execution.compile=true" in report["options"]
    title = "The whole recipe" + ("" if compiled else ", without compilation")
    title += "".join(_VARIANTS.get(option, "") for option in report["options"])
    title += _STARTS.get(report["compile_cache"], "")
    title += f" ({report['provenance']['device']}, steps {row[0]})"
    table = Table(title, note, [*header, "first trained step s"], [row])
    return [table]


def imagination_tables(report: Report) -> list[Table]:
    """Every size on every axis, by mode."""
    rows = report["rows"]
    modes = _distinct(row["mode"] for row in rows)
    sizes = _distinct(
        (r["axis"], r["batch"], r["context"], r.get("horizon")) for r in rows
    )
    cells = []
    for axis, batch, context, horizon in sizes:
        same = {
            row["mode"]: row
            for row in rows
            if (row["axis"], row["batch"], row["context"]) == (axis, batch, context)
            and row.get("horizon") == horizon
        }
        for name in ("rollout",) if axis != "dynamics" else ("context", "step"):
            times = [_time(same.get(mode), name) for mode in modes]
            words = [axis, "pass" if name == "context" else name]
            size = [str(batch), str(context), format_number(horizon)]
            cells.append([*words, *size, *map(format_number, times)])
    note = (
        f"Median ms. {_origin(report)} On the axis `dynamics` latents are given: the "
        "pass is the sequence model's over the context, without frames, the step one "
        "imagined step after it."
    )
    header = ["axis", "what", "batch", "context", "horizon", *modes]
    title = "Imagination by size"
    return [Table(title, _with_reasons(note, _failures(rows)), header, cells, words=2)]


def ssd_tables(report: Report) -> list[Table]:
    """Every form of the recurrence at every shape, one table a mode."""
    rows = report["rows"]
    shapes = _distinct((row["batch"], row["length"]) for row in rows)
    header = ["form", *(f"{batch} × {length}" for batch, length in shapes)]
    note = (
        f"Median ms, forward / forward and backward, B × T, {report['dtype']}. "
        f"{_origin(report)}"
    )
    tables: list[Table] = []
    for mode in _distinct(row["mode"] for row in rows if "mode" in row):
        times = {
            (r["form"], r["batch"], r["length"]): r
            for r in rows
            if r.get("mode") == mode
        }
        cells = [
            [form, *(_both_ways(times.get((form, *shape))) for shape in shapes)]
            for form in _distinct(row["form"] for row in rows)
        ]
        reasons = _failures(rows) if not tables else []
        title = f"The recurrence, {mode}"
        tables.append(Table(title, _with_reasons(note, reasons), header, cells))
    return tables


def dynamics_tables(report: Report) -> list[Table]:
    """Every model by length, one table a phase and mode, the fastest one named."""
    arguments = report["arguments"]
    shapes = {
        "training": f"Forward and backward over {arguments['batch']} sequences of T.",
        "imagination": f"{arguments['rollouts']} contexts of C steps, and "
        f"{arguments['horizon']} steps after them.",
    }
    tables: list[Table] = []
    for phase, mode in _distinct((row["phase"], row["mode"]) for row in report["rows"]):
        rows = [r for r in report["rows"] if (r["phase"], r["mode"]) == (phase, mode)]
        kinds = _distinct(row["dynamics"] for row in rows)
        cells = []
        for length in _distinct(row["length"] for row in rows):
            same = {row["dynamics"]: row for row in rows if row["length"] == length}
            times = {kind: _time(same.get(kind), "call") for kind in kinds}
            known = {kind: ms for kind, ms in times.items() if ms is not None}
            best = min(known, key=lambda kind: known[kind]) if known else None
            fastest = _ABSENT if best is None else NAMES[best]
            cells.append([str(length), *map(format_number, times.values()), fastest])
        sizes = {r["dynamics"]: r["parameters"] for r in rows if "parameters" in r}
        counts = ", ".join(f"{NAMES[k]} {n}" for k, n in sizes.items())
        note = f"Median ms. {shapes[phase]} {_origin(report)} Parameters: {counts}."
        header = ["length", *(NAMES[kind] for kind in kinds), "fastest"]
        title = f"Dynamics, {phase}, {mode}"
        tables.append(Table(title, _with_reasons(note, _failures(rows)), header, cells))
    return tables


def sampler_tables(report: Report) -> list[Table]:
    """Draws and samples by number of transitions, one table a device."""
    tables: list[Table] = []
    for device in _distinct(row["device"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["device"] == device]
        sizes = _distinct(row["transitions"] for row in rows)
        names = _distinct((r["sampler"], r["windows"], r["length"]) for r in rows)
        times = {
            (r["sampler"], r["windows"], r["length"], r["transitions"]): r for r in rows
        }
        cells = [
            [
                name[0],
                f"{name[1]} × {name[2]}",
                *(_draw_and_sample(times.get((*name, size))) for size in sizes),
            ]
            for name in names
        ]
        note = (
            "Median ms of the draw / with the gathering of small records, by stored "
            f"transitions. {_origin(report)}"
        )
        header = ["sampler", "windows", *(f"{size:.0e}" for size in sizes)]
        title = f"Samplers on {device}"
        noted = _with_reasons(note, _failures(rows))
        tables.append(Table(title, noted, header, cells, words=2))
    return tables


def parallel_tables(report: Report) -> list[Table]:
    """A step by number of processes that share its batches."""
    rows = report["rows"]
    cells = [
        [
            row["mode"],
            row["updates"],
            str(row["gpus"]),
            str(row["processes"]),
            format_number(_time(row, "step")),
            format_number(row.get("speedup")),
            format_number(_peak(row.get("memory", {}))),
        ]
        for row in rows
    ]
    note = (
        f"Median ms of a whole step of preset {report['arguments']['preset']}. Apart, "
        "a process has one GPU for the world model and one for the behaviour. "
        f"Memory is that of the first. {_origin(report)}"
    )
    header = [
        *("mode", "updates", "GPUs", "processes"),
        *("ms", "times as fast", "peak GB each"),
    ]
    noted = _with_reasons(note, _failures(rows))
    return [Table("One run on several GPUs", noted, header, cells, words=2)]


def _origin(report: Report) -> str:
    """Say on what and by what a measurement was made."""
    found = report["provenance"]
    commit = found["commit"] or "unknown"
    changed = " with changes" if commit.endswith("-dirty") else ""
    return (
        f"{found['device']}, torch {found['versions'].get('torch')}, commit "
        f"{commit[:7]}{changed}."
    )


def _peak(memory: Mapping[str, float]) -> float | None:
    return memory.get("peak_reserved_gb", memory.get("peak_rss_gb"))


def _time(row: Report | None, name: str) -> float | None:
    if row is None or "times" not in row:
        return None
    median: float = row["times"][name]["median_ms"]
    return median


def _both_ways(row: Report | None) -> str:
    if row is None:
        return _ABSENT
    return " / ".join(
        format_number(_time(row, name)) for name in ("forward", "backward")
    )


def _draw_and_sample(row: Report | None) -> str:
    if row is None or "sample" not in row:
        return _ABSENT
    return " / ".join(format_number(row[k]["median_ms"]) for k in ("draw", "sample"))


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _failures(rows: Iterable[Report]) -> list[str]:
    """Why rows have no times, each reason once."""
    return _distinct(
        f"{_named(row)}: {row[kind]}"
        for row in rows
        for kind in ("skipped", "failure")
        if kind in row
    )


def _named(row: Report) -> str:
    if "dynamics" in row:
        return f"{NAMES[row['dynamics']]} at {row['length']}"
    if "gpus" in row:
        return f"{row['gpus']} GPUs, {row['mode']}, {row['updates']}"
    name: str = row.get("form") or row.get("sampler") or row["axis"]
    return name


def _with_reasons(note: str, reasons: Iterable[str]) -> str:
    listed = "; ".join(reasons)
    return f"{note} Not timed: {listed.rstrip('.')}." if listed else note
