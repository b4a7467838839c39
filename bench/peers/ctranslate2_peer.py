"""Peer: CTranslate2 with int8 weights and activations, all cores on one batch."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2

from bench.peers.conversion import converted
from bench.peers.protocol import serve


class CTranslate2Peer:
    """`Translator.translate_batch`, greedy. It takes tokens, which here are ids' words."""

    def load(self, checkpoint: Path) -> dict[str, Any]:
        """Convert the checkpoint once, in a process of its own, then load it."""
        folder = converted(checkpoint, f"ctranslate2-{ctranslate2.__version__}-int8", "bench.peers.ctranslate2_peer")
        self._vocabulary: list[str] = _vocabulary(checkpoint)
        self._ids = {token: number for number, token in enumerate(self._vocabulary)}
        threads = os.cpu_count() or 1
        self._translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )
        return {"ctranslate2": ctranslate2.__version__, "compute_type": "int8", "threads": threads}

    def run(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Answer all prompts in one batch."""
        results = self._translator.translate_batch(
            [[self._vocabulary[token] for token in prompt] for prompt in prompts],
            beam_size=1,
            min_decoding_length=new_tokens,
            max_decoding_length=new_tokens,
            max_input_length=0,
        )
        return [[self._ids[token] for token in result.hypotheses[0]] for result in results]


def _vocabulary(checkpoint: Path) -> list[str]:
    """Return the tokens of the checkpoint in the order of their ids."""
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).get_vocab()
    return sorted(tokens, key=tokens.__getitem__)


def convert(checkpoint: Path, output: Path) -> None:
    """Write the checkpoint as CTranslate2's int8 model. Its converter asks for a tokenizer's own class."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    make_tokenizer: Any = PreTrainedTokenizerFast

    control = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = make_tokenizer(tokenizer_file=str(checkpoint / "tokenizer.json"), **control)
    any_tokenizer: Any = AutoTokenizer
    any_tokenizer.from_pretrained = lambda *_, **__: tokenizer
    ctranslate2.converters.TransformersConverter(str(checkpoint)).convert(str(output), quantization="int8")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        serve(CTranslate2Peer())
