"""Makes of a checkpoint folder the files that the ONNX engine serves: `contract.archive.ONNX_FILES`."""

import random
import shutil
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from handler.contract.archive import GENERATION_CONFIG, TOKENIZER_FILE
from handler.contract.prompt import render
from handler.engines.onnx_engine import PRECISION_KEY
from handler.engines.t5_geometry import T5Geometry
from handler.engines.torch_engine import TorchEngine
from handler.engines.torch_weights import read_weights
from handler.tokenization import Tokenization
from training.onnx_graphs import decoder_graph, encoder_graph
from training.synthetic import record

BITS: Final = {"auto": 8, "int8": 8, "int4": 4}
"""Bits of the decoder's linear layers by precision; "auto" is int8."""

_CALIBRATION: Final = Path(__file__).resolve().parent.parent / "examples" / "cricket.txt"
_CALIBRATION_RECORDS: Final = 24
_MARGIN: Final = 1.25
"""How far beyond the largest value of the calibration the 8-bit range of a cross-attention channel reaches."""


def export_onnx(checkpoint: Path, output: Path, precision: str) -> None:
    """Fill the folder `output`, which is there, from a checkpoint folder.

    Raises EngineError when the checkpoint cannot be read, OSError when a file cannot be written.
    """
    bits = BITS[precision]
    geometry = T5Geometry.read(checkpoint)
    weights = read_weights(checkpoint, geometry, torch.float32, torch.device("cpu"))
    steps = cross_attention_steps(checkpoint)
    metadata = {PRECISION_KEY: f"int{bits}"}
    graphs = {
        "encoder.onnx": encoder_graph(geometry, weights, steps, metadata),
        "decoder.onnx": decoder_graph(geometry, weights, steps, bits, metadata),
    }
    for name, graph in graphs.items():
        # Beside the graph the weights are mapped, not read: loading takes no memory twice.
        onnx.save(graph, output / name, save_as_external_data=True, location=f"{name}.data")
    # Looked up row by row from the mapped file: the worker holds the rows it has met, not the table.
    np.save(output / "embedding.npy", weights.embedding.numpy().astype(np.float16))
    np.save(output / "encoder_bias.npy", weights.encoder_bias.numpy())
    np.save(output / "decoder_bias.npy", weights.decoder_bias.numpy())
    for name in ("config.json", TOKENIZER_FILE):
        shutil.copyfile(checkpoint / name, output / name)
    if (checkpoint / GENERATION_CONFIG).is_file():
        shutil.copyfile(checkpoint / GENERATION_CONFIG, output / GENERATION_CONFIG)


def cross_attention_steps(checkpoint: Path) -> NDArray[np.float32]:
    """Return what one step of each 8-bit cross-attention key and value channel is to stand for.

    Shape (layers * 2 * heads * d_kv,). Found by reading a few prompts in float32 (static per-channel calibration,
    Jacob et al. 2018, section 3.1).
    """
    engine = TorchEngine(checkpoint, slots=1, precision="fp32")
    tokenization = Tokenization(checkpoint / TOKENIZER_FILE)
    largest: list[NDArray[np.float32]] = []
    for prompt in _calibration_prompts():
        ids = tokenization.encode(prompt)[: engine.description.max_prompt_tokens]
        engine.encode(0, ids)
        largest.append(np.abs(engine.cross_attention(0)).max(axis=3))
        engine.release(0)
    reach = np.maximum.reduce(largest).reshape(-1) * _MARGIN / 127
    return np.where(reach == 0, 1, reach).astype(np.float32)


def _calibration_prompts() -> list[str]:
    cricket = _CALIBRATION.read_text(encoding="utf-8")
    prompts = [render(["How long is the pitch?"], cricket), render(["Hello, how are you?"], "")]
    rng = random.Random(0)
    for _ in range(_CALIBRATION_RECORDS):
        drawn = record(rng)
        prompts.append(render([drawn["Context"]], drawn["Knowledge"]))
    return prompts
