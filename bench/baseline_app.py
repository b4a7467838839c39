"""The app people write first, to be measured against: FastAPI with `generate` of `transformers` in an async endpoint.

`python -m bench.baseline_app --model FOLDER --port N` serves `POST /chat` on this machine alone. fp32, one answer
at a time, as GODEL's own example generates it: top-p sampling, no deadline, no queue but the event loop's.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import PreTrainedTokenizerFast, T5ForConditionalGeneration

from handler.contract.prompt import render


class Question(BaseModel):
    """What a client sends."""

    message: str
    knowledge: str
    min_length: int = 8
    max_length: int = 128
    top_p: float = 0.9
    do_sample: bool = True


def make_app(folder: Path) -> FastAPI:
    """Return the app over the checkpoint folder, loaded. Run it in this thread: torch's own threads are tied to it."""
    loaded: Any = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model = loaded.eval()
    make_tokenizer: Any = PreTrainedTokenizerFast
    tokenizer = make_tokenizer(tokenizer_file=str(folder / "tokenizer.json"))
    app = FastAPI()

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/chat")
    async def chat(question: Question) -> dict[str, Any]:
        ids = tokenizer(render([question.message], question.knowledge), return_tensors="pt").input_ids
        with torch.inference_mode():
            answer = model.generate(
                ids,
                min_new_tokens=question.min_length,
                max_new_tokens=question.max_length,
                top_p=question.top_p,
                top_k=0,
                do_sample=question.do_sample,
            )[0, 1:]
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": len(answer)}
        return {"response": tokenizer.decode(answer, skip_special_tokens=True), "usage": usage}

    return app


def main() -> None:
    """Serve from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.baseline_app", description="The naive app, on loopback.")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(make_app(options.model), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
