"""Drama (arXiv:2410.08893), a Mamba-2 world-model agent, as TorchRL components."""

__version__ = "0.1.0"
