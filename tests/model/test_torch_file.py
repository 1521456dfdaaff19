"""Reading `pytorch_model.bin` without running what it holds."""

import collections
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.errors import ModelFileError
from understudy.model.torch_file import read_torch_file


def saved(path: Path, state: Any, **options: Any) -> Path:
    torch.save(state, path, **options)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_pickle_protocol(tmp_path: Path, dtype: torch.dtype, protocol: int) -> None:
    state = {f"t{n}": torch.randn(n, 3).to(dtype) for n in range(1, 300)}
    read = read_torch_file(saved(tmp_path / "x.bin", state, pickle_protocol=protocol))
    assert read.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(read[name].dense(), value.float().numpy())


def test_state_dict_of_a_module_with_parameters_and_views(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    shared = torch.arange(12.0)
    state = collections.OrderedDict(module.state_dict(), p=torch.nn.Parameter(torch.ones(2)), v=shared[4:10].view(2, 3))
    read = read_torch_file(saved(tmp_path / "x.bin", state))
    np.testing.assert_array_equal(read["0.weight"].dense(), module[0].weight.detach().numpy())
    np.testing.assert_array_equal(read["v"].dense(), [[4, 5, 6], [7, 8, 9]])
    assert read["p"].dense().tolist() == [1, 1]


class _Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def with_pickle(path: Path, pickled: bytes) -> Path:
    """A torch file whose description is replaced."""
    saved(path, {"a": torch.ones(2)})
    with zipfile.ZipFile(path) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, data in files.items():
            new.writestr(name, pickled if name.endswith("data.pkl") else data)
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_foreign_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "owned"
    pickled = pickle.dumps({"a": _Attack(marker)}, protocol=protocol)
    with pytest.raises(ModelFileError, match="never runs"):
        read_torch_file(with_pickle(tmp_path / "x.bin", pickled))
    assert not marker.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02}q\x00",
        b"\x80\x02]q\x00.",
        b"\x80\x02K\x01.",
        b"\x80\x02(.",
        b"\x80\x02h\x07.",
        b"\x80\x02}u.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02}(]]u.",
        b"\x80\x02ccollections\nOrderedDict\n).",
        b"\x80\x02ccollections\nOrderedDict\nK\x01R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02Q.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nDoubleStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ.",
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x02I" + b"9" * 10_000 + b"\n.",
        b"(" * 100_000 + b".",
        b"\x80\x02" + b"\x85" * 3 + b".",
        b"\x80\x02N" + b"\x85" * 200_000 + b"Q.",
    ],
)
def test_damaged_pickles_are_refused(tmp_path: Path, pickled: bytes) -> None:
    with pytest.raises(ModelFileError):
        read_torch_file(with_pickle(tmp_path / "x.bin", pickled))


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="zip"):
        read_torch_file(saved(tmp_path / "old.bin", {"a": torch.ones(2)}, _use_new_zipfile_serialization=False))
    with zipfile.ZipFile(tmp_path / "other.bin", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelFileError, match=r"data\.pkl"):
        read_torch_file(tmp_path / "other.bin")
    with pytest.raises(ModelFileError, match="state dict"):
        read_torch_file(saved(tmp_path / "list.bin", [1, 2]))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.ones(2, dtype=torch.float64)}, "DoubleStorage"),
        ({"a": torch.ones(2, 3).T}, "contiguous"),
        ({"a": torch.ones(2).to_sparse()}, "never runs"),
    ],
)
def test_tensors_that_cannot_be_mapped_are_refused(tmp_path: Path, state: Any, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_torch_file(saved(tmp_path / "x.bin", state))


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a.bin", {"a": torch.zeros(100)})
    with (
        zipfile.ZipFile(tmp_path / "a.bin") as old,
        zipfile.ZipFile(tmp_path / "b.bin", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ModelFileError, match="compressed"):
        read_torch_file(tmp_path / "b.bin")
