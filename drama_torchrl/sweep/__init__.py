"""Many runs at once: what to run, where, and how it stands."""

from drama_torchrl.sweep.backend import Backend, make_backend
from drama_torchrl.sweep.conduct import conduct
from drama_torchrl.sweep.plan import Plan, PlannedRun, make_plan
from drama_torchrl.sweep.slots import Slot, find_slots
from drama_torchrl.sweep.summary import Row, format_rows

__all__ = [
    "Backend",
    "Plan",
    "PlannedRun",
    "Row",
    "Slot",
    "conduct",
    "find_slots",
    "format_rows",
    "make_backend",
    "make_plan",
]
