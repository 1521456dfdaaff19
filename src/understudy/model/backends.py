"""Which backend runs a model."""

import logging
from collections.abc import Mapping

from understudy.errors import EngineError, GpuError, GpuMemoryError
from understudy.kernels.gpu_probe import find_gpu
from understudy.model.config import NemotronConfig
from understudy.model.gpu_limits import GpuLimits
from understudy.model.native_backend import CpuBackend, why_not_native
from understudy.model.transformer import ReferenceBackend
from understudy.model.weights import Weight
from understudy.model.wgpu_backend import WgpuBackend

__all__ = ["BACKENDS", "open_backend"]

BACKENDS = ("auto", "cpu", "reference", "wgpu")

_log = logging.getLogger(__name__)


def open_backend(
    config: NemotronConfig, weights: Mapping[str, Weight], name: str = "auto", *, gpu: GpuLimits | None = None
) -> CpuBackend | ReferenceBackend | WgpuBackend:
    """Load weights into a backend.

    Args:
        config: shape.
        weights: all tensors.
        name: "cpu" (compiled kernels), "reference" (NumPy), "wgpu" (the best GPU) or "wgpu:" and part of an adapter's
            name, or "auto": the compiled kernels where they can run the model, and NumPy where not. Where no GPU can
            be used, "auto" runs the model, and the log says why, as it does for NumPy.
        gpu: what "wgpu" may take of the GPU's memory and time.

    Raises:
        EngineError: no such backend, "cpu" cannot run this model, or the GPU's memory holds not one layer of it.
    """
    kind, _, wanted = name.partition(":")
    if kind not in BACKENDS or (wanted and kind != "wgpu"):
        raise EngineError(f"There is no backend {name!r}; choose from {', '.join(BACKENDS)}.")
    if kind == "wgpu":
        try:
            found = find_gpu(wanted)
            return WgpuBackend(config, weights, found.adapter, variant=found.variant, limits=gpu)
        except GpuMemoryError:
            raise
        except GpuError as error:
            _log.warning("The CPU runs the model, not a GPU. %s", error)
            name = "auto"
    if name == "auto" and (reason := why_not_native(config)):
        _log.warning("The reference backend runs the model: %s.", reason)
        name = "reference"
    return ReferenceBackend(config, weights) if name == "reference" else CpuBackend(config, weights)
