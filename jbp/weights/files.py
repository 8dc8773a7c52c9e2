"""Files of arrays by name."""

import json
import math
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jbp.errors import TreeError


def safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file, by name. Raises TreeError for a torn file and one of another kind."""
    data = Path(path).read_bytes()
    length, found = int.from_bytes(data[:8], "little"), {}
    try:
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype, (start, end) = np.dtype(_DTYPES[entry["dtype"]]), entry["data_offsets"]
            if not 0 <= start <= end <= len(body) or end - start != dtype.itemsize * math.prod(entry["shape"]):
                raise ValueError(f"{name} does not lie in it")
            found[name] = np.frombuffer(body[start:end], dtype).reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TreeError(
            f"safetensors: got {path}, which cannot be read ({error}); expected the whole of such a file. Copy it "
            "again."
        ) from error
    return found


_DTYPES: dict[str, Any] = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": jnp.bfloat16, "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U8": "u1", "BOOL": "?",
}  # fmt: skip
