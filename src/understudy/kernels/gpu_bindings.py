"""What the kernels of a pass see: one bind group for all of a layer's dispatches."""

from understudy.kernels.gpu_device import Bound, GpuBuffer, GpuDevice

__all__ = ["PASS_BINDINGS", "bind_pass"]

PASS_BINDINGS = ("read", "read", "uniform", "write", "write", "read", "read", "write")
"""Of `wgsl/bindings.wgsl`, in order: seven storage buffers, and WebGPU promises eight."""


def bind_pass(
    device: GpuDevice,
    *,
    weights: GpuBuffer,
    cache: GpuBuffer,
    work: GpuBuffer,
    words: GpuBuffer,
    turns: GpuBuffer,
    logits: GpuBuffer,
) -> Bound:
    """Tie buffers to the kernels of a pass; what a kernel does not use may be any buffer.

    wgpu checks each group of buffers anew whenever another one is set, which takes more of the CPU than the dispatches
    themselves: so there is one for a layer, not one for a dispatch.

    Args:
        device: where all of it is.
        weights: of a `MatrixStore`.
        cache: blocks of one layer.
        work: activations.
        words: of the pass.
        turns: cosines and sines.
        logits: (rows, V) float32.
    """
    return device.bind(PASS_BINDINGS, (weights, weights, weights, cache, work, words, turns, logits))
