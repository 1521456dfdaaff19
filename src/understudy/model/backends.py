"""Which backend runs a model."""

import logging
from collections.abc import Mapping

from understudy.errors import EngineError
from understudy.model.config import NemotronConfig
from understudy.model.native_backend import CpuBackend, why_not_native
from understudy.model.transformer import ReferenceBackend
from understudy.model.weights import Weight

__all__ = ["BACKENDS", "open_backend"]

BACKENDS = ("auto", "cpu", "reference")

_log = logging.getLogger(__name__)


def open_backend(
    config: NemotronConfig, weights: Mapping[str, Weight], name: str = "auto"
) -> CpuBackend | ReferenceBackend:
    """Load weights into a backend.

    Args:
        config: shape.
        weights: all tensors.
        name: "cpu" (compiled kernels), "reference" (NumPy), or "auto": the compiled kernels where they can run the
            model; where they cannot, NumPy does, and the log says why.

    Raises:
        EngineError: no such backend, or "cpu" cannot run this model.
    """
    if name not in BACKENDS:
        raise EngineError(f"There is no backend {name!r}; choose from {', '.join(BACKENDS)}.")
    if name == "auto" and (reason := why_not_native(config)):
        _log.warning("The reference backend runs the model: %s.", reason)
        name = "reference"
    return ReferenceBackend(config, weights) if name == "reference" else CpuBackend(config, weights)
