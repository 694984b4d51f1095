"""Acting in real environments: what is remembered and what is acted on."""

from drama_torchrl.policies.acting import PosteriorPolicy, PriorPolicy
from drama_torchrl.policies.memory import CarriedMemory, Memory, WindowMemory

__all__ = [
    "CarriedMemory",
    "Memory",
    "PosteriorPolicy",
    "PriorPolicy",
    "WindowMemory",
]
