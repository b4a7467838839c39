"""Statements that are compiled once, for what every question asks of the database.

SQLAlchemy finds its compiled form of a statement anew each time, by a key made of all its parts, and turns a row's
values one by one through layers that serve every database: on a SQLite file at hand three times what SQLite takes.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Insert, Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

Row = Mapping[Any, Any]
"""Values by the names of their columns."""

_DIALECT: Final = sqlite.dialect(paramstyle="named")


class Prepared:
    """A statement whose values have names, none of them a list."""

    def __init__(self, statement: Select[Any] | Insert) -> None:
        """`statement` is a SELECT, or an INSERT that returns a row; it stays what SQLAlchemy executes elsewhere."""
        self.statement = statement
        compiled = statement.compile(dialect=_DIALECT)
        self._text = str(compiled)
        binds = compiled.bind_names.items()
        self._own = {name: compiled.params[name] for bound, name in binds if not bound.required}
        self._given = {
            name: turned
            for bound, name in binds
            if (turned := bound.type.dialect_impl(_DIALECT).bind_processor(_DIALECT))
        }
        columns = {str(column.key): column.type for column in statement.exported_columns}
        self._columns = tuple(columns)
        self._found = {
            name: turned
            for name, kind in columns.items()
            if (turned := kind.dialect_impl(_DIALECT).result_processor(_DIALECT, None))
        }

    def rows(self, connection: sqlite3.Connection, values: Mapping[str, Any]) -> Sequence[Row]:
        """Run it by itself and return its rows. Raises a DBAPIError, as SQLAlchemy would."""
        given = {**self._own, **values}
        for name, turned in self._given.items():
            given[name] = turned(given[name])
        try:
            found = connection.execute(self._text, given).fetchall()
        except sqlite3.Error as error:
            raise DBAPIError.instance(
                self._text, None, error, sqlite3.Error, hide_parameters=True, dialect=_DIALECT
            ) from error
        rows = [dict(zip(self._columns, row, strict=True)) for row in found]
        for name, turned in self._found.items():
            for row in rows:
                row[name] = turned(row[name])
        return rows
