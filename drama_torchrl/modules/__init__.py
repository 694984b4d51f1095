"""Networks of the world model, the actor and the critic."""

from drama_torchrl.modules.attention import Attention
from drama_torchrl.modules.backbones import (
    GRUDynamics,
    Mamba2Dynamics,
    Mamba3Dynamics,
    MambaDynamics,
    TransformerDynamics,
)
from drama_torchrl.modules.distributions import SymlogTwoHot
from drama_torchrl.modules.dynamics import Dynamics
from drama_torchrl.modules.feed_forward import FeedForward
from drama_torchrl.modules.gru import GRU
from drama_torchrl.modules.heads import (
    Actor,
    Critic,
    DrawnTerminationHead,
    RewardHead,
    TerminationHead,
)
from drama_torchrl.modules.mamba import Mamba
from drama_torchrl.modules.mamba2 import Mamba2
from drama_torchrl.modules.mamba3 import Mamba3
from drama_torchrl.modules.mode import evaluating, training
from drama_torchrl.modules.normalization import RMSNorm, RunningNorm
from drama_torchrl.modules.pixel_decoder import PixelDecoder
from drama_torchrl.modules.pixel_encoder import PixelEncoder
from drama_torchrl.modules.world_model import WorldModel

__all__ = [
    "GRU",
    "Actor",
    "Attention",
    "Critic",
    "DrawnTerminationHead",
    "Dynamics",
    "FeedForward",
    "GRUDynamics",
    "Mamba",
    "Mamba2",
    "Mamba2Dynamics",
    "Mamba3",
    "Mamba3Dynamics",
    "MambaDynamics",
    "PixelDecoder",
    "PixelEncoder",
    "RMSNorm",
    "RewardHead",
    "RunningNorm",
    "SymlogTwoHot",
    "TerminationHead",
    "TransformerDynamics",
    "WorldModel",
    "evaluating",
    "training",
]
