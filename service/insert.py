"""Rows of one table inserted by the driver's own executemany, many in one call.

SQLAlchemy works out the parameters of each row, which takes longer than SQLite takes to store it.
Here the statement, and what its types do to a value, are worked out once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Dialect, Table, insert
from sqlalchemy.orm import Session


def insert_new(
    session: Session, table: Table, rows: Sequence[Mapping[str, Any]], *, unique: Sequence[str]
) -> int:
    """Insert rows, all with the same columns; return how many went in.

    One whose `unique` columns are taken is left out, also by one that is being committed. Raises
    what the database raises.
    """
    if not rows:
        return 0
    connection = session.connection()
    prepared = _prepared(connection.dialect, table, frozenset(rows[0]), tuple(unique))
    done = connection.exec_driver_sql(prepared.statement, [prepared.bound(row) for row in rows])
    return done.rowcount


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A statement for rows with certain columns."""

    statement: str
    processes: Sequence[tuple[str, Callable[[Any], Any]]]  #: what a type does to a column's value
    in_order: Callable[[Mapping[str, Any]], Any] | None  #: None where the driver takes names

    def bound(self, row: Mapping[str, Any]) -> Any:
        """A row as the driver takes it."""
        values = dict(row)
        for name, process in self.processes:
            values[name] = process(values[name])
        return values if self.in_order is None else self.in_order(values)


@lru_cache
def _prepared(
    dialect: Dialect, table: Table, names: frozenset[str], unique: tuple[str, ...]
) -> _Prepared:
    columns = [column for column in table.columns if column.name in names]
    compiled = insert(table).inline().compile(dialect=dialect, column_keys=list(names))
    processes = [
        (column.name, column.type.dialect_impl(dialect).bind_processor(dialect))
        for column in columns
    ]
    return _Prepared(
        f"{compiled} ON CONFLICT ({', '.join(unique)}) DO NOTHING",
        [(name, process) for name, process in processes if process is not None],
        itemgetter(*(column.name for column in columns)) if dialect.positional else None,
    )
