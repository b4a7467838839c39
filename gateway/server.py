"""Serving the application with uvicorn: the port, the log, and an end that lets requests in flight finish."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from typing import Any

import uvicorn
import uvloop

from gateway.app import create_app
from gateway.connections import drop_the_deaf, patient_protocol, room_for
from gateway.errors import Misconfigured
from gateway.log import configure_logging
from gateway.settings import Settings, unknown_variables

URL_BYTES_PER_CHARACTER = 12
"""An emoji percent-encoded."""

KEEP_ALIVE_SECONDS = 75
"""How long a connection may be idle: longer than those before it keep theirs (httpx 5 s, nginx and most balancers 60),
for whoever closes first must not be the one to whom a request is on its way."""

logger = logging.getLogger("gateway.server")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight.

    Raises Misconfigured when the port is taken or a setting cannot work, StoreUnavailable when the database is
    out of reach; nothing is left open then.
    """
    configure_logging(settings.log_level, settings.log_format)
    for complaint in unknown_variables(os.environ):
        logger.warning("%s", complaint)
    with contextlib.closing(bind(settings.host, settings.port)) as listener:
        drop_the_deaf(listener, settings.send_timeout)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, listener))


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address. Raises Misconfigured, saying what to do, when it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Misconfigured(f"cannot listen on {host}: {error.strerror}; set GODEL_HOST") from error
    # asyncio turns Nagle's delay off only for sockets that know their protocol, hence no `socket.create_server`.
    # SO_REUSEADDR: a restart may take the port while old connections linger; a second listener is refused all the same.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise Misconfigured(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what uses it or set GODEL_PORT"
        ) from error
    return listener


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Return how uvicorn is to serve the application."""
    return {
        "http": patient_protocol(
            room_for(settings.max_connections),
            # A message travels in the request line.
            URL_BYTES_PER_CHARACTER * settings.max_message_characters + 65_536,
            settings.receive_timeout,
        ),
        "ws": "none",
        "loop": "uvloop",
        "log_config": None,  # ours is already in place
        "access_log": False,  # it would hold the path, which is users' text
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": settings.shutdown_grace,
    }


async def _serve(settings: Settings, listener: socket.socket) -> None:
    app = create_app(settings)
    # The application starts and stops here, not in uvicorn, so that what goes wrong then reaches our caller.
    config = uvicorn.Config(app, **uvicorn_options(settings) | {"lifespan": "off"})
    server = uvicorn.Server(config)

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn takes these over while it serves and raises them again when it is done; ours outlive that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    async with app.router.lifespan_context(app):
        # What is loaded stays: a collection that looks through all of it stops every request for a tenth of a second.
        gc.collect()
        gc.freeze()
        host, port = listener.getsockname()[:2]
        if settings.admin_key is None:
            logger.info("no key is asked for: whoever uses this machine may do all; set GODEL_ADMIN_KEY to change that")
        logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        await server.serve(sockets=[listener])
    logger.info("stopped")
