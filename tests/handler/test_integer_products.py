"""ONNX Runtime's 8-bit products, as the engine's sessions run them: exact sums, whatever the processor can do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from handler.engines.onnx_engine import _session, sums_bytes_exactly
from training.quantization import BLOCKS, by_block

INPUTS, OUTPUTS = 768, 96


def product(tmp_path: Path, operator: str, constants: list[NDArray[np.generic]], **attributes: Any) -> Path:
    """Return a graph of one product from the domain com.microsoft, written to a file."""
    names = [f"constant_{number}" for number in range(len(constants))]
    node = helper.make_node(operator, ["x", *names], ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", OUTPUTS])],
        [numpy_helper.from_array(array, name) for array, name in zip(constants, names, strict=True)],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=11), tmp_path / "product.onnx")
    return tmp_path / "product.onnx"


@pytest.mark.parametrize(
    ("cpuinfo", "exactly"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\nbugs\t\t:\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx_vnni\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n", False),
        ("processor\t: 0\nFeatures\t: asimd avx512_vnni\n", False),
        (None, False),
    ],
)
def test_exact_sums_are_asked_for_unless_linux_tells_of_vnni(
    tmp_path: Path, cpuinfo: str | None, exactly: bool
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="ascii")
    assert sums_bytes_exactly(tmp_path / "cpuinfo") is exactly


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_the_encoders_products_do_not_saturate(tmp_path: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    weights = random.choice(np.array([-127, 100, 127], np.int8), (INPUTS, OUTPUTS))
    weights[:, 0] = 127
    path = product(
        tmp_path, "DynamicQuantizeMatMul", [weights, np.ones(OUTPUTS, np.float32), np.zeros(OUTPUTS, np.int8)]
    )
    steps = random.integers(0, 256, (rows, INPUTS))  # whole numbers from 0 to 255: quantised as they are
    steps[:, 0] = 255
    steps[:, 1:9] = 255
    (found,) = _session(path, 2, arena=False).run(None, {"x": steps.astype(np.float32)})
    np.testing.assert_array_equal(found, steps @ weights.astype(np.int64))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_the_decoders_products_do_not_saturate(tmp_path: Path, bits: int, sign: int, rows: int) -> None:
    weights = np.full((OUTPUTS, INPUTS), -1.0, np.float32)
    values, scales = by_block(weights, bits)
    path = product(
        tmp_path,
        "MatMulNBits",
        [values, scales],
        N=OUTPUTS,
        K=INPUTS,
        bits=bits,
        block_size=BLOCKS[bits],
        accuracy_level=4,
    )
    (found,) = _session(path, 2, arena=True).run(None, {"x": np.full((rows, INPUTS), sign, np.float32)})
    np.testing.assert_allclose(found, np.full((rows, OUTPUTS), -sign * INPUTS), rtol=1e-6)
