"""Triton kernels for the passes that cost most on a GPU.

A file named after a function holds it and its twin in plain torch, which serves on
CPUs, without Triton and in other dtypes; ``*_kernel(s).py`` hold the kernels.
"""

__all__: list[str] = []
