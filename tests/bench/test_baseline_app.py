"""The naive app over real HTTP."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from bench.checkpoints import GEOMETRIES
from bench.clients import Service, WorkDiffersError, ask
from bench.prompts import words
from bench.stack import naive_app
from handler.contract.prompt import render
from handler.tokenization import Tokenization

VOCABULARY = GEOMETRIES["tiny"].vocabulary


def test_it_answers_with_the_forced_number_of_tokens_and_other_work_is_noticed(tiny: Path) -> None:
    knowledge, message = words(50, VOCABULARY, 1), words(8, VOCABULARY, 2)
    tokens = len(Tokenization(tiny / "tokenizer.json").encode(render([message], knowledge)))
    with naive_app(tiny) as (url, pid):
        assert pid > 0
        body = {"knowledge": knowledge, "min_length": 6, "max_length": 6}
        service = Service(name="app", url=f"{url}/chat", body=body, prompt_tokens=tokens, new_tokens=6)
        load = ask(service, [[message], [message, message]])
        assert len(load.latencies) == 3
        assert load.new_tokens == 18
        assert 0 < load.p95 <= max(load.latencies)
        with pytest.raises(WorkDiffersError, match=f"app did other work: {tokens} prompt and 6 new tokens"):
            ask(replace(service, new_tokens=7), [[message]])
        assert httpx.post(f"{url}/chat", json={"message": "alone"}).status_code == 422
