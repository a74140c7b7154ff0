"""Files that are written while their tensors are computed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.errors import ArtefactError
from adapters.store import file_digest
from adapters.stream import TensorFile, write_tensors

TENSORS = {
    "a": torch.arange(12.0).reshape(3, 4),
    "b.bias": torch.arange(5.0),
    "empty": torch.zeros(0, 4),
    "ü": torch.tensor(7.0),
}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_file_is_the_one_that_the_library_writes(tmp_path: Path, dtype: torch.dtype) -> None:
    wanted = {name: tensor.to(dtype) for name, tensor in TENSORS.items()}
    digest = write_tensors(tmp_path / "ours", SHAPES, dtype, wanted.values())
    save_file(wanted, tmp_path / "theirs", metadata={"format": "pt"})
    read = load_file(tmp_path / "ours")
    assert read.keys() == wanted.keys()
    assert all(torch.equal(read[name], wanted[name]) for name in wanted)
    assert digest == file_digest(tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_parts_may_be_cut_anywhere(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    for cuts in ([12], [1, 11], [1] * 12, [5, 0, 7]):
        write_tensors(tmp_path / "it", {"a": (3, 4)}, torch.float32, whole.split(cuts))
        assert torch.equal(load_file(tmp_path / "it")["a"], whole.reshape(3, 4))


@pytest.mark.parametrize("count", [11, 13])
def test_more_or_fewer_than_announced_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match="48 were announced"):
        write_tensors(tmp_path / "it", {"a": (3, 4)}, torch.float32, [torch.zeros(count)])


def test_what_cannot_be_written_is_an_error() -> None:
    """/dev/full takes nothing; enough parts follow that the writer's error must come through."""
    with pytest.raises(OSError, match="No space left"):
        write_tensors(Path("/dev/full"), {"a": (100,)}, torch.float32, torch.zeros(100).split(1))


@pytest.mark.parametrize("elements", [1, 7, 1000])
def test_a_file_is_read_some_rows_at_a_time(tmp_path: Path, elements: int) -> None:
    save_file({**TENSORS, "half": torch.arange(6.0).reshape(3, 1, 2).half()}, tmp_path / "it")
    with TensorFile(tmp_path / "it") as file:
        assert file.shapes == {name: tuple(shape) for name, shape in SHAPES.items()} | {
            "half": (3, 1, 2)
        }
        for name, wanted in load_file(tmp_path / "it").items():
            blocks = [block.clone() for block in file.rows(name, elements)]
            assert all(block.shape[0] * block.shape[1] <= max(elements, 5) for block in blocks)
            found = torch.cat(blocks) if blocks else torch.zeros(0, 4)
            assert torch.equal(found.reshape(wanted.shape), wanted)
            assert found.dtype == wanted.dtype


def test_what_is_no_file_of_tensors_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "none.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(ArtefactError, match=r"none\.safetensors cannot be read"):
        TensorFile(tmp_path / "none.safetensors")
    save_file({"a": torch.arange(3)}, tmp_path / "whole.safetensors")
    with pytest.raises(
        ArtefactError, match=r"whole\.safetensors holds a as I64, and only F32, BF16"
    ):
        TensorFile(tmp_path / "whole.safetensors")


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    save_file({"a": torch.arange(12.0)}, tmp_path / "it")
    with TensorFile(tmp_path / "it") as file:
        (tmp_path / "it").write_bytes((tmp_path / "it").read_bytes()[:-4])
        with pytest.raises(ArtefactError, match="ends in the middle of a tensor"):
            list(file.rows("a", 100))
