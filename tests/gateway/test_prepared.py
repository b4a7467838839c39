"""Statements compiled once give what SQLAlchemy gives, errors too."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, create_engine, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from gateway.store.prepared import Prepared
from gateway.store.schema import bots, keys, metadata, sessions

MOMENT = datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
ELSEWHERE = MOMENT.astimezone(timezone(timedelta(hours=5)))


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path}/some.db", isolation_level="AUTOCOMMIT")
    metadata.create_all(engine)
    with engine.connect() as connection:
        bot = {"knowledge": "Eleven.", "parameters": {"top_p": 0.5}, "created_at": MOMENT, "updated_at": MOMENT}
        for number in range(3):
            connection.execute(insert(bots).values(bot_id=f"b{number}", revision=1, instruction=None, **bot))
        yield connection
    engine.dispose()


def run(statement: Prepared, connection: Connection, **values: Any) -> list[Mapping[Any, Any]]:
    driver: Any = connection.connection.driver_connection
    return list(statement.rows(driver, values))


def test_rows_have_the_types_of_their_columns(connection: Connection) -> None:
    statement = Prepared(select(bots).where(bots.c.bot_id >= bindparam("first")).order_by(bots.c.bot_id).limit(2))
    found = run(statement, connection, first="b1")
    expected = connection.execute(statement.statement, {"first": "b1"}).mappings().all()
    assert found == [dict(row) for row in expected]
    assert [row["bot_id"] for row in found] == ["b1", "b2"]
    assert found[0]["created_at"] == MOMENT
    assert found[0]["parameters"] == {"top_p": 0.5}
    assert run(statement, connection, first="c") == []


def test_values_are_turned_as_their_columns_want_them(connection: Connection) -> None:
    statement = Prepared(select(bots.c.bot_id).where(bots.c.updated_at >= bindparam("since")))
    assert len(run(statement, connection, since=ELSEWHERE)) == 3
    assert run(statement, connection, since=ELSEWHERE + timedelta(microseconds=1)) == []


def test_an_insert_is_kept_and_returns_its_row(connection: Connection) -> None:
    names = ("session_id", "bot_id", "created_at", "updated_at", "exchanges")
    new = {name: bindparam(f"new_{name}", type_=sessions.c[name].type) for name in names}
    statement = Prepared(insert(sessions).values(new).returning(sessions.c.created_at, sessions.c.exchanges))
    values = dict(zip(names, ("s", "b1", ELSEWHERE, ELSEWHERE, 4), strict=True))
    found = run(statement, connection, **{f"new_{name}": value for name, value in values.items()})
    assert found == [{"created_at": MOMENT, "exchanges": 4}]
    assert connection.execute(select(sessions.c.session_id)).scalars().all() == ["s"]
    with pytest.raises(IntegrityError):
        run(statement, connection, **{f"new_{name}": value for name, value in values.items()})


def test_an_error_is_sqlalchemys_and_holds_no_text_of_a_user(connection: Connection) -> None:
    statement = Prepared(select(keys).where(keys.c.name == bindparam("name")))
    keys.drop(connection)
    with pytest.raises(OperationalError, match="no such table") as raised:
        run(statement, connection, name="what somebody wrote")
    assert "somebody" not in str(raised.value)
