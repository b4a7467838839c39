"""Changing which model servers answer: checked first, kept in the store, followed by every gateway within seconds."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.deployments import Address, Routing
from gateway.errors import DeploymentUnfit, ModelError, RoutingConflict, StoreUnavailable
from gateway.inference import Inference
from gateway.keys import Caller
from gateway.pool import OpenModel, Pool
from gateway.tokens import CountTokens
from handler.contract.generation import GenerationParameters
from handler.contract.prompt import render
from handler.contract.wire import GenerateRequest

if TYPE_CHECKING:
    from gateway.store.port import RoutingStore

FOLLOW_SECONDS: Final = 2.0
"""How old a gateway's knowledge of the routing may be."""

CHECK_SECONDS: Final = 20.0
ATTEMPTS: Final = 5
"""How often a change is tried anew when somebody else was faster."""

SAMPLE: Final = render(["Où est le café „Zur Brücke“? It opens at 09:30, say 3.5 of 7 guests… 北京 Ω ½ tokenization!"])
"""Tokenizers that are not the same hardly ever cut this into the same number of tokens."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The deployments: kept in `store`, at work in `pool`."""

    store: "RoutingStore"
    pool: Pool
    open_model: OpenModel
    count_tokens: CountTokens
    prompt_budget: int
    clock: Callable[[], float] = time.time
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from a look at the store to the end of what follows from it in the pool."""

    async def put(self, name: str, instances: Sequence[Address], *, by: Caller) -> Routing:
        """Make `name` the deployment of these servers, once each of them has answered.

        Raises InvalidInput, DeploymentUnfit, RoutingConflict or StoreUnavailable; nothing is changed then.
        """
        (await self.store.read_routing()).put(name, instances)  # what breaks a rule is not worth a call
        await self._check(instances)
        return await self._change(lambda routing: routing.put(name, instances), f"deployment {name} put", by)

    async def weigh(self, name: str, weight: int, *, by: Caller) -> Routing:
        """Give `name` that many percent of the requests.

        Raises DeploymentNotFound, RoutingConflict, StoreUnavailable; DeploymentUnfit for more to one that is down.
        """
        await self.refresh()
        if weight > self.pool.group(name).deployment.weight:
            try:
                await self.pool.ready(name)
            except ModelError as error:
                raise DeploymentUnfit(f"{name} does not answer: {error.detail}") from error
        return await self._change(lambda routing: routing.weigh(name, weight), f"deployment {name} weighs {weight}", by)

    async def roll_back(self, *, by: Caller) -> Routing:
        """Bring back the weights before the last change of them. Raises RoutingConflict or StoreUnavailable."""
        return await self._change(lambda routing: routing.rolled_back(), "weights rolled back", by)

    async def remove(self, name: str, *, by: Caller) -> Routing:
        """Forget a deployment. Raises DeploymentNotFound, RoutingConflict or StoreUnavailable."""
        return await self._change(lambda routing: routing.without(name), f"deployment {name} removed", by)

    async def follow(self, stop: asyncio.Event) -> None:
        """Route as the store says, also when another gateway changed it, until `stop` is set.

        While the store is out of reach all stays as it is.
        """
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_SECONDS):
                    await stop.wait()
                    return
            try:
                await self.refresh()
            except StoreUnavailable as error:
                logger.info("the routing to model servers stays as it is: %s", error.detail)
            except Exception:  # whatever it is, the next look may do better; nobody would start this task again
                logger.exception("the routing to model servers cannot be followed")

    async def refresh(self) -> None:
        """Route as the store says. Raises StoreUnavailable."""
        async with self.turn:
            await self.pool.route(await self.store.read_routing())

    async def _change(self, change: Callable[[Routing], Routing], what: str, by: Caller) -> Routing:
        async with self.turn:
            for _ in range(ATTEMPTS):
                before = await self.store.read_routing()
                after = change(before)
                if after != before:
                    try:
                        await self.store.write_routing(after)
                    except RoutingConflict:
                        continue  # from what it is now
                    logger.info("%s by %s", what, by.key_id)
                await self.pool.route(after)
                return after
        raise RoutingConflict("others change the deployments just now; try again")

    async def _check(self, instances: Sequence[Address]) -> None:
        """Raise DeploymentUnfit, naming each server that does not answer or is none for this gateway."""
        found = await asyncio.gather(*(self._problem(address) for address in instances))
        problems = {f"instances.{number}": problem for number, problem in enumerate(found) if problem}
        if problems:
            text = "; ".join(f"{instances[int(name[10:])].inference_url} {text}" for name, text in problems.items())
            raise DeploymentUnfit(text, problems=problems)

    async def _problem(self, address: Address) -> str | None:
        try:
            async with asyncio.timeout(CHECK_SECONDS), self.open_model(address) as model:
                await model.ready()
                return await self._misfit(model)
        except ModelError as error:
            return f"does not answer: {error.detail}"
        except TimeoutError:
            return f"does not answer within {CHECK_SECONDS:.0f} s"

    async def _misfit(self, model: Inference) -> str | None:
        """Return why a model that answers is none for this gateway. The format of prompts it has shown to know."""
        described, usual = await model.describe(), GenerationParameters().max_length
        if (limit := described.max_prompt_tokens) is not None and limit < self.prompt_budget:
            return f"reads prompts of {limit} tokens; this gateway writes up to {self.prompt_budget}"
        if (limit := described.max_new_tokens) is not None and limit < usual:
            return f"writes answers of {limit} tokens; {usual} are asked for unless a client says otherwise"
        now = self.clock()
        reply = await model.generate(
            GenerateRequest(
                prompt=SAMPLE,
                request_id="fitting",
                parameters=GenerationParameters(max_length=1, min_length=0, do_sample=False),
                submitted_at=now,
                deadline=now + CHECK_SECONDS,
            )
        )
        counted = self.count_tokens(SAMPLE)
        if reply.prompt_tokens != counted:
            return f"counts {reply.prompt_tokens} tokens where this gateway counts {counted}: another tokenizer"
        return None
