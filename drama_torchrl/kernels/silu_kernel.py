"""SiLU and its gradient as parts of other kernels."""

from __future__ import annotations

from drama_torchrl.kernels.optional_triton import jit, tl

__all__ = ["sigmoid", "silu", "silu_gradient"]


@jit
def sigmoid(x: tl.tensor, PTX: tl.constexpr) -> tl.tensor:
    """Computes 1 / (1 + exp(-x)) in float32."""
    if PTX:
        # 4 instructions, within 1e-6; those below are 13, a third of a pass over maps.
        x = tl.inline_asm_elementwise(
            "{ .reg .f32 e; mul.f32 e, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 e, e; "
            "add.f32 e, e, 0f3F800000; rcp.approx.ftz.f32 $0, e; }",
            "=f,f",
            [x],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        x = 1.0 / (1.0 + tl.exp(-x))
    return x


@jit
def silu(x: tl.tensor, PTX: tl.constexpr) -> tl.tensor:
    """Computes x · sigmoid(x) in float32."""
    return x * sigmoid(x, PTX)


@jit
def silu_gradient(dy: tl.tensor, z: tl.tensor, PTX: tl.constexpr) -> tl.tensor:
    """What dy = ∂/∂SiLU(z) makes of ∂/∂z."""
    gate = sigmoid(z, PTX)
    return dy * gate * (1.0 + z * (1.0 - gate))
