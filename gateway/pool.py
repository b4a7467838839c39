"""Several model servers as one `Inference`: requests go to versions by weight, in a version to the least busy server.

A server that cannot be reached, or whose worker died, is passed over until it has answered a probe. Another one gets a
request only when no worker had it before: what may be in a model is never repeated. With a single server there is
nothing to choose, so it is neither passed over nor probed.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import fields, replace
from typing import Final, Protocol, Self

from gateway.deployments import Address, Routing
from gateway.errors import DeploymentNotFound, ModelBusy, ModelDown, ModelError
from gateway.inference import DeploymentState, Inference, ModelDescription, RoutedReply
from gateway.members import Group, Member
from handler.contract.wire import GenerateReply, GenerateRequest

PROBE_SECONDS: Final = 1.0

OpenModel = Callable[[Address], AbstractAsyncContextManager[Inference]]


class Judge(Protocol):
    """Told how each request to a deployment went."""

    def __call__(self, deployment: str, error: ModelError | None, seconds: float, /) -> None:
        """`error` is None for an answer; for a request that its client gave up nothing is told."""
        ...


class Pool:
    """An `Inference` over the servers of a `Routing`. Use `Pool.open`, which also probes."""

    def __init__(
        self,
        open_model: OpenModel,
        own: Address,
        *,
        judge: Judge = lambda *_: None,
        chance: random.Random | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`own` is the server of this gateway's settings."""
        self._open_model, self._own = open_model, own
        self._judge, self._timer = judge, timer
        self._chance = chance or random.Random()
        self._turns = itertools.count(1)
        self._retiring: set[asyncio.Task[None]] = set()
        self.groups: Sequence[Group] = ()
        self._routing: Routing | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, open_model: OpenModel, own: Address, routing: Routing, *, judge: Judge) -> AsyncIterator[Self]:
        """Yield a pool over `routing`; close all of it after."""
        pool = cls(open_model, own, judge=judge)
        await pool.route(routing)
        probing = asyncio.create_task(pool._keep_probing())
        try:
            yield pool
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
            await pool.close()

    async def route(self, routing: Routing) -> None:
        """Follow `routing` from now on. Servers that are in it no longer finish what they have.

        Not to be called again before it has returned.
        """
        if routing == self._routing:
            return
        present = {(each.deployment, each.address): each for each in self.members}
        groups = []
        for deployment in routing.deployments:
            members = []
            for address in deployment.instances or (self._own,):
                member = present.pop((deployment.name, address), None)
                members.append(member or await self._new(deployment.name, address))
            groups.append(Group(deployment, members))
        self.groups, self._routing = groups, routing
        for member in present.values():
            task = asyncio.create_task(member.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    @property
    def members(self) -> list[Member]:
        """All servers, those without requests too."""
        return [member for group in self.groups for member in group.members]

    def group(self, name: str) -> Group:
        """Return the deployment of that name. Raises DeploymentNotFound."""
        found = next((group for group in self.groups if group.deployment.name == name), None)
        if found is None:
            raise DeploymentNotFound(name)
        return found

    async def close(self) -> None:
        """Close every connection."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        for member in self.members:
            await member.closing.aclose()
        self.groups = ()

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        """Return the answer to one prompt. Raises a ModelError."""
        failures: list[ModelError] = []
        for member in self._candidates():
            try:
                with self._asked(member):
                    return _routed(await member.inference.generate(request), member.deployment)
            except (ModelDown, ModelBusy) as error:
                failures.append(_unreached(error))
        raise _verdict(failures)

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[str | GenerateReply, None]:
        """Yield the parts of the answer to one prompt, last its reply. Raises a ModelError."""
        failures: list[ModelError] = []
        for member in self._candidates():
            begun = False
            try:
                with self._asked(member):
                    async with aclosing(member.inference.stream(request)) as parts:
                        async for part in parts:
                            begun = True
                            yield _routed(part, member.deployment) if isinstance(part, GenerateReply) else part
                return
            except (ModelDown, ModelBusy) as error:
                if begun:
                    raise
                failures.append(_unreached(error))
        raise _verdict(failures)

    async def ready(self, deployment: str | None = None) -> None:
        """Return when a server that gets requests has answered, or one of `deployment`.

        Raises what one of them raises when none does.
        """
        members = [
            member
            for group in self.groups
            if (group.deployment.name == deployment if deployment else group.deployment.weight)
            for member in group.members
        ]
        if len(members) == 1:
            await members[0].inference.ready()
            return
        asking = {asyncio.create_task(_ready(member)) for member in members}
        error: BaseException | None = None
        try:
            for asked in asyncio.as_completed(asking):
                error = await asked
                if error is None:
                    return
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        raise error or ModelDown("no model server is known")

    async def describe(self) -> ModelDescription:
        """Return what the version with the greatest share is, and all versions."""
        groups = sorted(self.groups, key=lambda group: -group.deployment.weight)
        found = await asyncio.gather(*(group.describe() for group in groups))
        if isinstance(found[0], ModelError):
            raise found[0]
        return replace(
            found[0],
            deployments=tuple(
                DeploymentState(
                    name=group.deployment.name,
                    weight=group.deployment.weight,
                    version=None if isinstance(said, ModelError) else said.version,
                    instances=len(group.members),
                    live=len(group.live),
                )
                for group, said in zip(groups, found, strict=True)
            ),
        )

    async def probe(self) -> None:
        """Find out which servers answer, unless there is just one."""
        members = self.members
        if len(members) > 1:
            await asyncio.gather(*(member.probe() for member in members))

    async def _keep_probing(self) -> None:
        while True:
            await self.probe()
            await asyncio.sleep(PROBE_SECONDS)

    async def _new(self, deployment: str, address: Address) -> Member:
        closing = AsyncExitStack()
        inference = await closing.enter_async_context(self._open_model(address))
        return Member(deployment, address, inference, closing)

    def _candidates(self) -> Iterator[Member]:
        """Yield the servers to ask, the next one only when the one before did not get the request.

        First those of a version that chance picks by weight, for a turn of all in order would give a client who asks
        in the same rhythm always the same version. Then those of the others: an answer of another version is worth
        more than none. When all have failed before, all are tried again.
        """
        groups = [group for group in self.groups if group.deployment.weight]
        if len(groups) == 1 and len(groups[0].members) == 1:
            yield groups[0].members[0]
            return
        ordered = []
        while groups:
            group = groups[0]
            if len(groups) > 1:
                awake = [group for group in groups if any(member.live for member in group.members)] or groups
                group = self._chance.choices(awake, [group.deployment.weight for group in awake])[0]
            groups.remove(group)
            ordered.append(group)
        live = [member for group in ordered for member in group.live]
        for member in live or [member for group in ordered for member in group.members]:
            if not member.retired:  # meanwhile
                yield member

    @contextmanager
    def _asked(self, member: Member) -> Iterator[None]:
        member.in_flight += 1
        member.last_asked = next(self._turns)
        start = self._timer()
        try:
            yield
        except ModelError as error:
            if isinstance(error, ModelDown):
                member.live = False
            self._judge(member.deployment, error, self._timer() - start)
            raise
        else:
            member.live = True
            self._judge(member.deployment, None, self._timer() - start)
        finally:
            member.in_flight -= 1
            if not member.in_flight:
                member.idle.set()


_FIELDS: Final = tuple(each.name for each in fields(GenerateReply))


def _routed(reply: GenerateReply, deployment: str) -> RoutedReply:
    return RoutedReply(**{name: getattr(reply, name) for name in _FIELDS}, deployment=deployment)


async def _ready(member: Member) -> ModelError | None:
    try:
        await member.inference.ready()
    except ModelError as error:
        return error
    return None


def _unreached(error: ModelDown | ModelBusy) -> ModelError:
    """Return `error` when no worker got the request, raise it when one may have."""
    if isinstance(error, ModelDown) and error.reached:
        raise error
    return error


def _verdict(failures: Sequence[ModelError]) -> ModelError:
    """Return what the client is told when nobody took its request: that all are busy, if one was; else that all are
    down.
    """
    busy = next((error for error in failures if isinstance(error, ModelBusy)), None)
    return busy or (failures[-1] if failures else ModelDown("no model server is known"))
