"""The routing to model servers in a SQL database: a row for each revision, so that the last ones can be looked up."""

from typing import Any, Final

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from gateway.deployments import Address, Deployment, Routing
from gateway.errors import RoutingConflict
from gateway.store.prepared import Prepared, Row
from gateway.store.schema import model_routes
from gateway.store.transactions import SqlDatabase

KEPT_REVISIONS: Final = 100

_NEWEST: Final = Prepared(select(model_routes).order_by(model_routes.c.revision.desc()).limit(1))


class SqlRouting(SqlDatabase):
    """A `RoutingStore`."""

    async def read_routing(self) -> Routing:
        """Return the routing; what holds by default when none was written."""
        rows = await self._rows(_NEWEST)
        return _routing(rows[0]) if rows else Routing()

    async def write_routing(self, routing: Routing) -> None:
        """Keep a routing. Raises RoutingConflict when another one has its revision already."""
        # Of two writers at once one inserts, and the other one finds the revision taken.
        statement = self._insert(model_routes).values(_row(routing) | {"changed_at": self._clock()})
        old = delete(model_routes).where(model_routes.c.revision <= routing.revision - KEPT_REVISIONS)

        def write(connection: Connection) -> None:
            written = connection.execute(statement.on_conflict_do_nothing().returning(model_routes.c.revision))
            if written.one_or_none() is None:
                raise RoutingConflict(f"revision {routing.revision} of the deployments was made by somebody else")
            connection.execute(old)

        await self._write(write)


def _row(routing: Routing) -> dict[str, Any]:
    return {
        "revision": routing.revision,
        "deployments": [
            {
                "name": each.name,
                "weight": each.weight,
                "instances": [[address.inference_url, address.management_url] for address in each.instances],
            }
            for each in routing.deployments
        ],
        "earlier": [dict(weights) for weights in routing.earlier],
    }


def _routing(row: Row) -> Routing:
    return Routing(
        revision=row["revision"],
        deployments=tuple(
            Deployment(
                name=each["name"],
                weight=each["weight"],
                instances=tuple(Address(*address) for address in each["instances"]),
            )
            for each in row["deployments"]
        ),
        earlier=tuple(row["earlier"]),
    )
