"""A safetensors file written while its tensors are computed, and its digest with it.

The library's own writer wants all of a file's tensors at once and copies each; here a few rows are
in memory at a time, and while some are written and digested the next are computed. The format: the
header's length in 8 bytes, the header as JSON, the tensors' bytes one after another
(https://huggingface.co/docs/safetensors).
"""

import errno
import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
ALIGNED_TO = 8  #: bytes; the header is padded with spaces
WAITING = 16  #: writings and digestings of parts that are computed


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
        ThreadPoolExecutor(max_workers=1) as writer,
        ThreadPoolExecutor(max_workers=1) as digester,
        ThreadPoolExecutor(max_workers=1) as flusher,
    ):
        waiting: deque[Future[None]] = deque()
        flushing: Future[None] | None = None

        def put(data: bytes | memoryview) -> None:
            waiting.append(writer.submit(_write_all, file, data))
            waiting.append(digester.submit(digest.update, data))
            while len(waiting) > WAITING:
                waiting.popleft().result()

        put(len(text).to_bytes(8, "little") + text)
        for part in parts:
            flat = part.detach().contiguous().flatten().to(dtype).view(torch.uint8)
            written += len(flat)
            put(flat.numpy().data)
            if flushing is None or flushing.done():
                if flushing is not None:
                    flushing.result()
                flushing = flusher.submit(_flush, file)
        for future in (*waiting, *([flushing] if flushing else [])):
            future.result()
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


def _write_all(file: FileIO, data: bytes | memoryview) -> None:
    """A raw file may take less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
