"""Safetensors files some rows at a time, read, and written with their digest.

The library's own writer wants all of a file's tensors at once and copies each, and what it reads it
maps into memory as a whole; here a few rows are in memory. The format: the header's length in 8
bytes, the header as JSON, the tensors' bytes one after another
(https://huggingface.co/docs/safetensors).
"""

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor

from adapters.errors import ArtefactError

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}
LENGTH_BYTES = 8  #: of the header's length
ALIGNED_TO = 8  #: bytes; the header is padded with spaces
FLUSH_BYTES = 1 << 28  #: written from one flush to the next


class TensorFile:
    """A file's tensors by name, open to be read. A context manager.

    Raises ArtefactError when it is no safetensors file or holds a dtype that is not in `NAMES`.
    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as checked:
                names = list(checked.keys())
        except Exception as error:  # safetensors has an error class of its own beside OSError
            raise ArtefactError(f"{path} cannot be read: {error}") from error
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            header = json.loads(file.read(length))
        self._starts = LENGTH_BYTES + length
        self._header: dict[str, Any] = {name: header[name] for name in names}
        for name, described in self._header.items():
            if described["dtype"] not in DTYPES:
                raise ArtefactError(
                    f"{path} holds {name} as {described['dtype']}, "
                    f"and only {', '.join(DTYPES)} are known."
                )
        self._file = path.open("rb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(described["shape"]) for name, described in self._header.items()}

    def rows(self, name: str, elements: int) -> Iterator[Tensor]:
        """A tensor as (rows, elements of a row), about so many elements at a time.

        One of fewer than two dimensions is one row. Each block is good until the next is asked for,
        which lies in the same memory. Raises ArtefactError when the file ends before it should.
        """
        described = self._header[name]
        dtype, shape = DTYPES[described["dtype"]], described["shape"]
        count, width = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
        at_once = max(1, elements // (width or 1))
        block = torch.empty((min(at_once, count), width), dtype=dtype)
        place = self._starts + described["data_offsets"][0]
        for start in range(0, count, at_once):
            rows = block[: count - start]
            self._file.seek(place + start * width * dtype.itemsize)
            _read_all(self._file, rows.flatten().view(torch.uint8).numpy().data)
            yield rows


def write_tensors(
    path: Path, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, parts: Iterable[Tensor]
) -> str:
    """Write tensors of one dtype and return the file's sha256.

    `parts` are the tensors' elements in the order of `shapes`, cut anywhere. Raises ValueError when
    they are more or fewer than the shapes say, and OSError when they cannot be written.
    """
    begins = 0
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, shape in shapes.items():
        ends = begins + math.prod(shape) * dtype.itemsize
        offsets = [begins, ends]
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": offsets}
        begins = ends
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNED_TO)
    digest = hashlib.sha256()
    written = 0
    with (
        path.open("wb", buffering=0) as file,
        ThreadPoolExecutor(max_workers=1) as flusher,
    ):
        flushing: Future[None] | None = None
        flush_at = FLUSH_BYTES

        def put(data: bytes | memoryview) -> None:
            digest.update(data)
            _write_all(file, data)

        put(len(text).to_bytes(8, "little") + text)
        for part in parts:
            flat = part.detach().contiguous().flatten().to(dtype).view(torch.uint8)
            written += len(flat)
            put(flat.numpy().data)
            if written >= flush_at and (flushing is None or flushing.done()):
                if flushing is not None:
                    flushing.result()
                flushing = flusher.submit(_flush, file)
                flush_at = written + FLUSH_BYTES
        if flushing is not None:
            flushing.result()
        _flush(file)
    if written != begins:
        raise ValueError(f"{path}: {written} bytes of tensors came, {begins} were announced.")
    return digest.hexdigest()


def _flush(file: FileIO) -> None:
    """The disk works along instead of at the end. A device that has nothing to flush says EINVAL.

    Any other error must be raised here: the system tells it once, and not whoever flushes later.
    """
    try:
        os.fdatasync(file.fileno())
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _read_all(file: FileIO, into: memoryview) -> None:
    """A raw file may give less than it is asked for."""
    while into:
        count = file.readinto(into)
        if not count:
            raise ArtefactError(f"{file.name!r} ends in the middle of a tensor.")
        into = into[count:]


def _write_all(file: FileIO, data: bytes | memoryview) -> None:
    """A raw file may take less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
