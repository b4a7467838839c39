"""Continuous batching: requests join and leave between steps, each in a slot of the engine.

The scheduler knows token ids, slots and time; nothing of text or TorchServe. A request that is alone is given
several tokens a step where its prompt suggests them (drafting.py), which changes no answer. It promises that a request
past its deadline, cancelled or finished frees its slot before the next step, and that admitting
requests delays the live ones by at most `prefill_tokens` tokens of encoding (or one prompt) a step.

Where a prompt takes as long to read as many steps, newcomers that are let in one after another make whoever came just
before them wait for all of their prompts. With `patience` they are let in by groups: a prompt that would hold up many
waits until few are live, for so many seconds at most; then all that wait are read, while there are slots.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from handler.contract.generation import GenerationParameters
from handler.contract.wire import FinishReason
from handler.drafting import PromptLookup
from handler.engines.base import Engine
from handler.sampling import RowState, next_tokens

STALL_TOKENS: Final = 1024
"""A prompt holds up many when its tokens times the live requests are more: a long one three, a short one dozens."""

CPU_PATIENCE: Final = 1.0
"""Seconds; for engines on a CPU, where a long prompt takes as long as twenty steps. On a GPU it takes one or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of one request. Times are in milliseconds."""

    key: Hashable
    tokens: Sequence[int]
    finish_reason: FinishReason
    prompt_tokens: int
    queue_ms: float
    compute_ms: float
    batch_size: int
    steps: int
    """How often the engine was called for it; fewer than tokens where drafts were right."""


@dataclass(slots=True, kw_only=True)
class _Request:
    key: Hashable
    prompt_ids: Sequence[int]
    parameters: GenerationParameters
    submitted_at: float
    arrived: float
    """By the timer."""
    expires: float | None
    """When its deadline is, by the timer: the clock may be set meanwhile."""
    row: RowState
    slot: int | None = None
    queue_ms: float = 0.0
    started: float = 0.0
    batch_size: int = 0
    steps: int = 0
    lookup: PromptLookup | None = None


class Scheduler:
    """Runs requests on `engine`. Not thread-safe. Without `drafts` each token takes a step.

    `patience` is in seconds: without it every request is read as soon as a slot is free. `clock` is wall time, `timer`
    monotonic, both in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        prefill_tokens: int,
        patience: float = 0.0,
        drafts: bool = True,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._prefill_tokens, self._patience = prefill_tokens, patience
        self._group_open = False
        self._draft_tokens = engine.description.draft_tokens if drafts else 0
        self._clock, self._timer = clock, timer
        self._waiting: deque[_Request] = deque()
        self._live: dict[Hashable, _Request] = {}
        self._free_slots = list(reversed(range(engine.description.slots)))

    @property
    def live(self) -> int:
        """How many requests hold a slot."""
        return len(self._live)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._live and not self._waiting

    def tokens(self, key: Hashable) -> Sequence[int]:
        """Return the tokens of the answer that the live request `key` has so far; none for any other key."""
        request = self._live.get(key)
        return self._answer(request) if request else ()

    def submit(
        self,
        key: Hashable,
        prompt_ids: Sequence[int],
        parameters: GenerationParameters,
        *,
        submitted_at: float = 0.0,
        deadline: float | None = None,
    ) -> None:
        """Queue a request under `key`, unique among those not finished. It ends in a `Finished` of `step`."""
        now = self._timer()
        expires = None if deadline is None else now + deadline - self._clock()
        self._waiting.append(
            _Request(
                key=key,
                prompt_ids=prompt_ids,
                parameters=parameters,
                submitted_at=submitted_at,
                arrived=now,
                expires=expires,
                row=RowState(parameters, self._engine.description.decoder_start_token_id),
            )
        )

    def cancel(self, key: Hashable) -> None:
        """Forget the request `key` and free its slot; no `Finished` follows. Unknown keys are ignored."""
        if request := self._live.pop(key, None):
            self._free(request)
        else:
            self._waiting = deque(request for request in self._waiting if request.key != key)

    def reset(self) -> None:
        """Forget every request, after a failure of the engine."""
        for key in [*self._live, *(request.key for request in self._waiting)]:
            self.cancel(key)

    def step(self) -> list[Finished]:
        """Admit what fits, advance every live request by a token or a draft, return those that ended."""
        finished = self._expire()
        self._admit()
        if not self._live:
            return finished
        requests = list(self._live.values())
        for request in requests:
            request.batch_size = max(request.batch_size, len(requests))
            request.steps += 1
        if len(requests) == 1 and (draft := self._draft(requests[0])):
            return finished + self._check_draft(requests[0], draft)
        rows = [request.row for request in requests]
        logits = self._engine.step([self._slot(request) for request in requests], [row.history[-1] for row in rows])
        tokens = next_tokens(logits, rows, self._engine.description.eos_token_id)
        for request, token in zip(requests, tokens, strict=True):
            if reason := self._end(request, token):
                finished.append(self._finish(request, reason))
        return finished

    def _draft(self, request: _Request) -> list[int]:
        """Return a guess at the next tokens, at most as many as the engine likes and the answer may still have."""
        room = request.parameters.max_length - request.row.length - 1
        count = min(self._draft_tokens, room)
        if count <= 0:
            return []
        if request.lookup is None:
            request.lookup = PromptLookup(request.prompt_ids)
        return request.lookup.draft(request.row.history, count)

    def _check_draft(self, request: _Request, draft: Sequence[int]) -> list[Finished]:
        """Feed the due token and the draft; draw token after token while what is drawn is what was guessed."""
        slot = self._slot(request)
        logits = self._engine.extend(slot, [request.row.history[-1], *draft])
        for place, scores in enumerate(logits):
            (token,) = next_tokens(scores[None], [request.row], self._engine.description.eos_token_id)
            if reason := self._end(request, token):
                return [self._finish(request, reason)]
            if place == len(draft) or token != draft[place]:
                self._engine.rewind(slot, len(draft) - place)
                break
        return []

    def _end(self, request: _Request, token: int) -> FinishReason | None:
        """Return why `request` ends with `token`, None while it goes on."""
        if token == self._engine.description.eos_token_id:
            return "stop"
        return "length" if request.row.length >= request.parameters.max_length else None

    def _admit(self) -> None:
        """Encode waiting requests, oldest first, within the free slots and this step's prefill budget."""
        budget = self._prefill_tokens
        while self._waiting and self._free_slots:
            request = self._waiting[0]
            self._group_open = self._group_open or self._may_hold_up(request)
            if not self._group_open:
                return
            if len(request.prompt_ids) > budget and budget < self._prefill_tokens:
                return  # its turn comes with the next step; a prompt over a whole step's budget goes alone
            budget -= len(request.prompt_ids)
            self._waiting.popleft()
            request.started = self._timer()
            request.queue_ms = self._waited(request)
            request.slot = self._free_slots.pop()
            self._live[request.key] = request
            self._engine.encode(request.slot, request.prompt_ids)
        self._group_open = False

    def _may_hold_up(self, request: _Request) -> bool:
        """Return whether the live requests are to wait for the prompt of `request`."""
        held_up = len(request.prompt_ids) * len(self._live)
        return held_up <= STALL_TOKENS or self._timer() - request.arrived >= self._patience

    def _expire(self) -> list[Finished]:
        now = self._timer()
        late = [r for r in [*self._live.values(), *self._waiting] if r.expires is not None and r.expires <= now]
        return [self._finish(request, "deadline") for request in late]

    def _finish(self, request: _Request, reason: FinishReason) -> Finished:
        self.cancel(request.key)
        admitted = request.slot is not None
        return Finished(
            key=request.key,
            tokens=self._answer(request),
            finish_reason=reason,
            prompt_tokens=len(request.prompt_ids),
            queue_ms=request.queue_ms if admitted else self._waited(request),
            compute_ms=(self._timer() - request.started) * 1e3 if admitted else 0.0,
            batch_size=request.batch_size,
            steps=request.steps,
        )

    def _waited(self, request: _Request) -> float:
        return max(0.0, (self._clock() - request.submitted_at) * 1e3) if request.submitted_at else 0.0

    def _answer(self, request: _Request) -> list[int]:
        eos = self._engine.description.eos_token_id
        return [token for token in request.row.new_tokens if token != eos]

    @staticmethod
    def _slot(request: _Request) -> int:
        if request.slot is None:
            raise AssertionError("a live request has a slot")
        return request.slot

    def _free(self, request: _Request) -> None:
        if request.slot is not None:
            self._engine.release(request.slot)
            self._free_slots.append(request.slot)
