"""Networks of the world model, the actor and the critic."""

from drama_torchrl.modules.distributions import SymlogTwoHot
from drama_torchrl.modules.dynamics import MambaDynamics
from drama_torchrl.modules.heads import Actor, Critic, RewardHead, TerminationHead
from drama_torchrl.modules.mamba2 import Mamba2
from drama_torchrl.modules.mode import evaluating, training
from drama_torchrl.modules.normalization import RMSNorm, RunningNorm
from drama_torchrl.modules.pixels import PixelDecoder, PixelEncoder
from drama_torchrl.modules.world_model import WorldModel

__all__ = [
    "Actor",
    "Critic",
    "Mamba2",
    "MambaDynamics",
    "PixelDecoder",
    "PixelEncoder",
    "RMSNorm",
    "RewardHead",
    "RunningNorm",
    "SymlogTwoHot",
    "TerminationHead",
    "WorldModel",
    "evaluating",
    "training",
]
