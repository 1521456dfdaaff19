"""The highest logits, found on the GPU."""

from understudy.kernels.gpu_device import Dispatch, GpuBuffer, GpuDevice

__all__ = ["top_logits"]


def top_logits(device: GpuDevice, logits: GpuBuffer, best: GpuBuffer, *, count: int, vocab: int) -> Dispatch:
    """Prepare the search for each row's highest logits; a workgroup a row.

    Args:
        device: where all of it is.
        logits: (rows, vocab) float32.
        best: (rows, count, 2) words: token id, and the bits of its logit; of equals the lower id comes first.
        count: 1 for the greedy choice.
        vocab: tokens (V).
    """
    kernel = device.kernel("top logits", ("top",), {"COUNT": count, "V": vocab})
    return device.dispatch(kernel, (logits, best))
