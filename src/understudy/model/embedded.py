"""The model inside the package: Harrow, small enough to ship with the code."""

from importlib.resources import files
from pathlib import Path

from understudy.errors import ModelFileError

__all__ = ["embedded_model_path"]


def embedded_model_path(*, in_16_bits: bool = False) -> Path:
    """Path of the embedded model's GGUF file.

    Args:
        in_16_bits: the file to go on from, in training and pruning, instead of the one to talk to, which has 8 bits a
            weight and is twice as fast.

    Raises:
        ModelFileError: this copy of the package was built without it.
    """
    path = Path(str(files("understudy.model").joinpath("harrow-f16.gguf" if in_16_bits else "harrow.gguf")))
    if not path.is_file():
        raise ModelFileError(
            f"The embedded model is missing ({path}); install the package again, or name a model with --model."
        )
    return path
