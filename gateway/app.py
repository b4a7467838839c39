"""The composition root: which concrete part stands behind which port is decided here and nowhere else."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from gateway import openai_errors, problems
from gateway.access import NEEDS, GuardedRoute
from gateway.admission import Admission
from gateway.bots import LIMITS, RESERVED_BOT_IDS, BotRules
from gateway.chat import Chat
from gateway.conversations import TOKENS_OF_AN_EXCHANGE, Conversations
from gateway.deployment_metrics import DeploymentMetrics
from gateway.deployments import Address
from gateway.errors import Misconfigured
from gateway.inference import Inference
from gateway.keys import Keys
from gateway.limits import RateLimits
from gateway.metrics import MeasuredInference, Metrics
from gateway.moderation import load_moderator
from gateway.pool import OpenModel, Pool
from gateway.prompting import PromptBuilder
from gateway.quarantine import Quarantine
from gateway.readiness import Readiness
from gateway.request_log import BodyLimit, RequestLog
from gateway.rollout import Rollout
from gateway.routes import bots, chat, deployments, keys, knowledge, model, openai, page, seed, sessions
from gateway.routes import metrics as metrics_route
from gateway.services import Services
from gateway.settings import Settings
from gateway.store.memory import now
from gateway.store.port import Store
from gateway.tokens import CountTokens
from gateway.tracing import TracedInference, tracing
from gateway.turns import Turns

JSON_BYTES_PER_CHARACTER = 12
"""The longest spelling of one character in JSON: two `\\uXXXX` escapes."""

READERS = 4
"""Documents that are read at a time: four gigabytes at most."""

SWEEPER_SECONDS = 5.0
"""How long the end waits for a database that does not answer."""

DESCRIPTION = """\
Bots that answer from the knowledge you give them, with a GODEL model behind TorchServe.

Where keys are asked for, send one as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

Failures are `application/problem+json` (RFC 9457). Every response has an `X-Request-ID`, yours if you sent one.
"""

ROUTERS: tuple[APIRouter, ...] = (
    chat.router,
    openai.router,
    model.router,
    metrics_route.router,
    bots.router,
    knowledge.router,
    sessions.router,
    keys.router,
    deployments.router,
    page.router,
    seed.router,
)
"""In the order in which they are asked: what is asked most comes first, the short addresses, which match almost
anything, last.
"""


TAGS: tuple[str, ...] = ("bots", "sessions", "chat", "openai", "operation", "keys", "deployments", "short addresses")
"""The chapters of the interface, in the order in which they are shown."""

SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


class Gateway(FastAPI):
    """FastAPI, with problems and keys in its OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for failure in (problems.Problem, openai_errors.Envelope):
            schema = failure.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {}) | {failure.__name__: schema}
        components["securitySchemes"] = SECURITY_SCHEMES
        document["paths"] = dict(sorted(document["paths"].items(), key=lambda item: _chapter(item[1])))
        for path, operations in document["paths"].items():
            openai_path = path.startswith(openai_errors.PATHS)
            for method, operation in operations.items():
                if openai_path:
                    operation["responses"].pop("422", None)  # FastAPI's own; bad input is a 400 there
                if NEEDS[f"{method.upper()} {path}"] is not None:
                    operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
                    operation["responses"] |= (openai_errors if openai_path else problems).declared(401, 403)
        return document


def create_app(
    settings: Settings,
    *,
    store: Store | None = None,
    inference: Inference | OpenModel | None = None,
    count_tokens: CountTokens | None = None,
) -> FastAPI:
    """Return the application. What is not given is made from `settings` when it starts and closed when it stops.

    Raises Misconfigured when a route would be shadowed by a bot of the same name, or has no rule in NEEDS.
    Starting it raises Misconfigured or StoreUnavailable.
    """

    metrics = Metrics()
    judge = DeploymentMetrics(metrics.registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.services = await _services(settings, stack, metrics, judge, store, inference, count_tokens)
            yield

    app = Gateway(
        title="godel-serve",
        version="0.1.0",
        description=DESCRIPTION,
        openapi_tags=[{"name": tag} for tag in TAGS],
        lifespan=lifespan,
        redirect_slashes=False,  # a message may end in a slash, and a redirect would decode it twice
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # a span would hold the path, users' text
    )
    for router in ROUTERS:
        app.router.routes.extend(router.routes)  # to ask an included router takes FastAPI three layers more
    _check_reserved(app)
    _check_needs(app)
    problems.install(app, metrics.refused)
    largest = max(JSON_BYTES_PER_CHARACTER * settings.max_knowledge_characters, settings.max_document_bytes)
    app.add_middleware(BodyLimit, limit=largest + 65_536)
    app.add_middleware(Turns)
    app.add_middleware(RequestLog, metrics=metrics)
    return app


async def _services(
    settings: Settings,
    stack: AsyncExitStack,
    metrics: Metrics,
    judge: DeploymentMetrics,
    store: Store | None,
    inference: Inference | OpenModel | None,
    count_tokens: CountTokens | None,
) -> Services:
    """Choose and open every part; `stack` closes those opened here."""
    budget, metadata, defaults = settings.prompt_budget, dict[str, Any](), dict[str, Any]()
    tracers = stack.enter_context(tracing(settings.tracing))
    if count_tokens is None:
        from gateway.served_archive import read_archive
        from gateway.tokens import token_counter

        archive = read_archive(settings.tokenizer)
        try:
            count_tokens, metadata = token_counter(archive.tokenizer), archive.metadata
        except Misconfigured as error:
            raise Misconfigured(f"{error.detail} ({settings.tokenizer})") from error
        defaults = archive.parameters
        budget = min(budget, archive.max_prompt_tokens or budget)
    if store is None:
        from gateway.store.sql import SqlStore

        store = await stack.enter_async_context(
            SqlStore.open(settings.database_url, patience=settings.database_timeout)
        )
    open_model, own = _opener(settings, metadata, inference), Address(settings.inference_url, settings.management_url)
    pool = await stack.enter_async_context(Pool.open(open_model, own, await store.read_routing(), judge=judge))
    judge.watch(pool)
    keys = Keys(store, settings.admin_key.get_secret_value() if settings.admin_key else None, now)
    if not keys.required and (await store.page_keys(limit=1)).keys:
        raise Misconfigured("there are keys in the store, but without GODEL_ADMIN_KEY nobody would be asked for one")
    readiness = Readiness(pool)
    stack.push_async_callback(readiness.close)
    conversations = Conversations(
        store=store,
        idle=timedelta(hours=settings.session_idle_hours),
        clock=now,
        recent=max(1, budget // TOKENS_OF_AN_EXCHANGE),
        max_sessions=settings.max_sessions,
        max_exchanges=settings.max_exchanges,
    )
    stop = asyncio.Event()
    stack.push_async_callback(_end, asyncio.ensure_future(conversations.sweep(stop)), stop)
    rollout = Rollout(store=store, pool=pool, open_model=open_model, count_tokens=count_tokens, prompt_budget=budget)
    stack.push_async_callback(_end, asyncio.ensure_future(rollout.follow(stop)), stop)
    chosen = {name: getattr(settings, name) for name in LIMITS}
    limits = await stack.enter_async_context(
        RateLimits.open(
            settings.redis_url.get_secret_value() if settings.redis_url else None,
            {name: value for name, value in chosen.items() if value is not None},
        )
    )
    admission = Admission(settings.max_in_flight, settings.max_waiting, settings.max_queue_seconds)
    metrics.watch(admission)
    guarded = Quarantine(pool)
    talk = Chat(
        store=store,
        inference=MeasuredInference(TracedInference(guarded, tracers) if tracers else guarded, metrics),
        conversations=conversations,
        prompts=PromptBuilder(count_tokens=count_tokens, budget=budget),
        timeout=settings.request_timeout,
        max_message_characters=settings.max_message_characters,
        max_knowledge_characters=settings.max_knowledge_characters,
        limits=limits,
        admission=admission,
        moderator=load_moderator(settings),
        defaults=defaults,
        answered=metrics.answered_for,
    )
    return Services(
        rules=BotRules(settings.max_knowledge_characters),
        store=store,
        keys=keys,
        inference=pool,
        readiness=readiness,
        rollout=rollout,
        conversations=conversations,
        chat=talk,
        max_document_bytes=settings.max_document_bytes,
        readers=asyncio.Semaphore(READERS),
        metrics=metrics,
        tracers=tracers,
    )


def _opener(settings: Settings, metadata: Mapping[str, Any], inference: Inference | OpenModel | None) -> OpenModel:
    """Return what opens the model at an address. `metadata` is about the model of the settings' own."""
    if callable(inference):
        return inference
    if inference is not None:
        return lambda _: nullcontext(inference)
    from gateway.torchserve import TorchServeInference

    def open_model(address: Address) -> AbstractAsyncContextManager[Inference]:
        urls = {"inference_url": address.inference_url, "management_url": address.management_url}
        own = address.inference_url == settings.inference_url
        return TorchServeInference.open(settings.model_copy(update=urls), metadata if own else {})

    return open_model


def _chapter(operations: Mapping[str, Any]) -> int:
    """Return the place in TAGS of what an address offers."""
    return min(TAGS.index(tag) for operation in operations.values() for tag in operation["tags"])


async def _end(task: "asyncio.Future[None]", stop: asyncio.Event) -> None:
    stop.set()
    await asyncio.wait({task}, timeout=SWEEPER_SECONDS)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _check_reserved(app: FastAPI) -> None:
    """Raise Misconfigured when the first segment of a route could be taken for a bot's name."""
    paths = [route.path for route in iter_route_contexts(app.routes) if route.path]
    firsts = {path.split("/")[1] for path in paths}
    free = {name for name in firsts if name and not name.startswith("{")} - RESERVED_BOT_IDS
    if free:
        raise Misconfigured(f"these addresses must be reserved in gateway/bots.py: {', '.join(sorted(free))}")


def _check_needs(app: FastAPI) -> None:
    """Raise Misconfigured when nothing says who may call a route, or nothing would ask."""
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute):
            for method in route.methods or ():
                name = f"{method} {route.path_format}"
                if name not in NEEDS or not isinstance(route.original_route, GuardedRoute):
                    raise Misconfigured(f"gateway/access.py must say who may call {name}, and the route must ask")
