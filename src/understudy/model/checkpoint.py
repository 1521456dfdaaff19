"""One door to model files: a GGUF file, or a Hugging Face folder."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from understudy.errors import ModelFileError
from understudy.kernels.reference import add_one, subtract_one
from understudy.model.config import NemotronConfig
from understudy.model.gguf_keys import config_from_gguf
from understudy.model.gguf_reader import read_gguf
from understudy.model.gguf_tokenizer import tokenizer_from_gguf
from understudy.model.mapped_file import read_json_object
from understudy.model.safetensors_file import read_safetensors
from understudy.model.tensor_names import check_tensors, expected_shapes, gguf_names
from understudy.model.torch_file import read_torch_file
from understudy.model.weights import Weight
from understudy.tokenizer import Tokenizer

__all__ = ["LoadedModel", "load_model"]
