"""ONNX Runtime's 8-bit products, as the engine's sessions run them: exact sums, whatever the processor can do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, save

from handler.engines.onnx_engine import _session, sums_bytes_exactly
from handler.engines.t5_geometry import T5Geometry
from training.onnx_graphs import _Graph

INPUTS, OUTPUTS = 768, 96
GEOMETRY = T5Geometry.read(Path(__file__).parents[2] / "models" / "embedded")


def products(path: Path, graph: _Graph, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the value "y" of `graph` is for `rows`, the value "x"."""
    if not graph.inputs:
        graph.input("x", TensorProto.FLOAT, ["rows", INPUTS])
        graph.output("y", TensorProto.FLOAT, ["rows", OUTPUTS])
    save(graph.model({}), path / "products.onnx")
    found: NDArray[np.float32] = _session(path / "products.onnx", 2, arena=True).run(None, {"x": rows})[0]
    return found


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


@pytest.fixture(params=["as this processor needs it", "without VNNI"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without VNNI":  # the session's option makes right sums everywhere, only slower
        monkeypatch.setattr("handler.engines.onnx_engine.sums_bytes_exactly", lambda: False)


def whole_numbers(rows: int, largest: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return inputs, (rows, INPUTS), and weights, (OUTPUTS, INPUTS), that 8 bits hold as they are."""
    random = np.random.default_rng(0)
    weights = random.choice(np.array([-127, 100, 127], np.float32), (OUTPUTS, INPUTS))
    weights[0], weights[:, 0] = 127, 127
    steps = random.integers(0, largest + 1, (rows, INPUTS)).astype(np.float32)
    steps[:, :9] = largest
    return steps, weights


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_the_encoders_products_do_not_saturate(tmp_path: Path, rows: int) -> None:
    steps, weights = whole_numbers(rows, 255)
    graph = _Graph(GEOMETRY)
    graph.node(
        "Identity", graph.linear_by_tensor(graph.rounded_by_tensor("x"), torch.from_numpy(weights)), outputs=["y"]
    )
    np.testing.assert_array_equal(products(tmp_path, graph, steps), steps @ weights.T)


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("positive", [True, False])
def test_the_decoders_products_do_not_saturate(tmp_path: Path, rows: int, positive: bool) -> None:
    steps, weights = whole_numbers(rows, 255 if positive else 127)
    if not positive:
        steps[:, 9::2] *= -1
    graph = _Graph(GEOMETRY)
    graph.linear_8("x", torch.from_numpy(weights), positive=positive, outputs=["y"])
    np.testing.assert_allclose(products(tmp_path, graph, steps), steps @ weights.T, rtol=1e-6)


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("positive", [True, False])
def test_the_decoders_products_give_a_row_the_same_bits_in_any_company(tmp_path: Path, positive: bool) -> None:
    random = np.random.default_rng(0)
    weights = torch.from_numpy(random.standard_normal((OUTPUTS, INPUTS)).astype(np.float32))
    rows = random.standard_normal((33, INPUTS)).astype(np.float32) * np.logspace(-6, 6, 33, dtype=np.float32)[:, None]
    rows = np.maximum(rows, 0) if positive else rows
    rows[7] = 0
    graph = _Graph(GEOMETRY)
    graph.linear_8("x", weights, positive=positive, outputs=["y"])
    together = products(tmp_path, graph, rows)
    for company in (1, 2, 5, 8):
        for first in range(0, len(rows), company):
            some = slice(first, first + company)
            np.testing.assert_array_equal(products(tmp_path, graph, rows[some]), together[some])
    assert not together[7].any()  # a row of zeros


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_products_of_4_bits_do_not_saturate(tmp_path: Path, sign: int, rows: int) -> None:
    graph = _Graph(GEOMETRY)
    graph.node("Identity", graph.linear_4("x", torch.full((OUTPUTS, INPUTS), -1.0)), outputs=["y"])
    found = products(tmp_path, graph, np.full((rows, INPUTS), sign, np.float32))
    np.testing.assert_allclose(found, np.full((rows, OUTPUTS), -sign * INPUTS), rtol=1e-6)
