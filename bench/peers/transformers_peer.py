"""Peer: `generate` of `transformers` on PyTorch, in fp32, bf16 or with linear layers in dynamic int8."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import T5ForConditionalGeneration

from bench.peers.protocol import serve


class TransformersPeer:
    """What a naive app does: the option `precision` is fp32, bf16 or int8."""

    def load(self, checkpoint: Path, *, precision: str) -> dict[str, Any]:
        """Read the checkpoint; int8 quantises every `Linear`, activations as they come."""
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        model: Any = T5ForConditionalGeneration.from_pretrained(checkpoint, dtype=kind)
        self._model = model.eval()
        if precision == "int8":
            quantize: Any = torch.ao.quantization.quantize_dynamic  # it has no types
            self._model = quantize(model, {torch.nn.Linear}, dtype=torch.qint8)
        versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        return versions | {"precision": precision, "threads": torch.get_num_threads()}

    @torch.inference_mode()
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


if __name__ == "__main__":
    serve(TransformersPeer())
