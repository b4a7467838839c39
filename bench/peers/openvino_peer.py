"""Peer: OpenVINO with int8 weights, through optimum-intel's `generate`."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

# It brings torchvision, which text does not need and which does not load beside a torch of another build. None keeps it
# from being imported (documented of sys.modules, unknown to its type), and has to stand before what would import it.
sys.modules["torchvision"] = None  # type: ignore[assignment]

from optimum.intel import OVModelForSeq2SeqLM, OVWeightQuantizationConfig  # noqa: E402 - see above

from bench.peers.conversion import converted  # noqa: E402 - see above
from bench.peers.protocol import serve  # noqa: E402 - see above


class OpenVINOPeer:
    """The option `precision` is "default", whatever OpenVINO computes in on this machine, or "fp32"."""

    def load(self, checkpoint: Path, *, precision: str) -> dict[str, Any]:
        """Convert the checkpoint once, in a process of its own, then load and compile it."""
        folder = converted(checkpoint, f"openvino-{version('openvino')}-int8", "bench.peers.openvino_peer")
        # A cache in its default precision gave NaN when the batch grew, which greedy decoding hides.
        settings = {"KV_CACHE_PRECISION": "f32"} | ({"INFERENCE_PRECISION_HINT": "f32"} if precision == "fp32" else {})
        self._model = OVModelForSeq2SeqLM.from_pretrained(folder, ov_config=settings)
        return {name: version(name) for name in ("openvino", "optimum-intel", "transformers")} | {
            "weights": "int8",
            "settings": settings,
        }

    def run(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Answer prompts of one length in one batch."""
        ids = torch.tensor(prompts)
        answers = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
        )
        found: list[list[int]] = answers[:, 1:].tolist()  # without the decoder's start token
        return found


def convert(checkpoint: Path, output: Path) -> None:
    """Write the checkpoint as OpenVINO's graphs with weights in int8."""
    quantization = OVWeightQuantizationConfig(bits=8)
    model = OVModelForSeq2SeqLM.from_pretrained(
        checkpoint, export=True, compile=False, quantization_config=quantization
    )
    model.save_pretrained(output)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        serve(OpenVINOPeer())
