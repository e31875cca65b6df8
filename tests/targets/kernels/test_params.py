"""Constants are what their kernel was told, or an error names the one that is not."""

from __future__ import annotations

import numpy as np
import pytest

from fxquant.targets.kernels.parts.params import Param, declare, pack
from fxquant.targets.kernels.words.tir import prim_func
from fxquant.targets.tvm_api import I


def test_one_list_declares_and_packs_in_its_order() -> None:
    """Arguments of the function, and arrays beside it, have the same names, sizes and order."""
    params = [
        Param("weights", 4, "int32", lambda start: np.arange(start, start + 16, dtype=np.int8).reshape(4, 4)),
        Param("bias", 2, "uint32", lambda start: np.full(2, start, np.uint32), align=4),
    ]
    with prim_func("f") as finish:
        buffers = declare(params)
        I.buffer_store(buffers["weights"], buffers["weights"][0], [0])
    declared = finish().params
    packed = pack(params, 3)
    assert [buffer.name for buffer in declared] == list(packed) == ["weights", "bias"]
    assert [(int(buffer.shape[0]), buffer.dtype) for buffer in declared] == [(4, "int32"), (2, "uint32")]
    assert packed["weights"].tolist() == list(range(3, 19))
    assert packed["bias"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("values", "is_most"),
    [
        (np.zeros(3, np.int32), False),  # fewer than its kernel reads
        (np.zeros(5, np.int32), True),  # more than its kernel may read
        (np.zeros(4, np.int64), False),  # another type
    ],
)
def test_what_a_kernel_was_not_told_is_refused(values: np.ndarray, is_most: bool) -> None:
    """The message has the constant, what it is and what it should be."""
    param = Param("bias", 4, "int32", lambda: values, is_most=is_most)
    with pytest.raises(
        ValueError, match=rf"the constant bias has {values.size} elements of {values.dtype}.* 4 of int32"
    ):
        pack([param])
    assert pack([Param("bias", 4, "int32", lambda: values[:2].astype(np.int32), is_most=True)])["bias"].size == 2
