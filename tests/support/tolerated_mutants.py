"""Mutants that no test can or has to kill, with the reason. A survivor that is not listed here fails the run."""

from __future__ import annotations

from collections.abc import Mapping

REASONS: Mapping[str, tuple[str, ...]] = {
    "the key is unique, or the number is of one row: there is at most one": (
        "cellmove/engine/journal.py Journal.move: return found[0] if found else None → return found[ -1] if found else None",
        "cellmove/engine/journal.py Journal.open_move_of: return found[0] if found else None → return found[ -1] if found else None",
        "cellmove/db/history.py event_state: if len(rows) == 1 and rows[0].finish_time is not None: → if len(rows) == 1 and rows[ -1].finish_time is not None:",
        "cellmove/db/history.py event_state: return str(rows[0].result) → return str(rows[ -1].result)",
        'cellmove/db/history.py inserted_id: raise CallFailed("the database did not say which id it gave a new row") ⏎ return int(key[0]) → return int(key[ -1])',
    ),
    "an id that is None equals no row's id: the statements that follow find nothing either": (
        "cellmove/db/history.py finish_event: if action_id is None: ⏎ return → pass",
        'cellmove/db/history.py event_state: if action_id is None: ⏎ return "" → pass',
    ),
    "SQLAlchemy gives the key of every row that it inserts; a database that does not is a fault": (
        'cellmove/db/history.py inserted_id: raise CallFailed("the database did not say which id it gave a new row") → pass',
    ),
    "SQLAlchemy leaves values without a column out of an insert; the code does not rely on it": (
        'cellmove/db/history.py _fitting: return {name: value for name, value in row.items() if name in table.c and name != "id"} → return {name: value for name, value in row.items() if name != "id"}',
        'cellmove/db/records.py _fit: return {column: value for column, value in row.items() if column in table.c and column != "id"} → return {column: value for column, value in row.items() if column != "id"}',
    ),
    "only block_device_mapping has a column destination_type": (
        'cellmove/db/records.py _adapted: elif name == "block_device_mapping" and values.get("destination_type") == "volume": → elif values.get("destination_type") == "volume":',
    ),
    "how many moves one statement asks about; any number will do": (
        "cellmove/engine/journal.py : MOVES_PER_STATEMENT = 500 → MOVES_PER_STATEMENT = 501",
        "cellmove/engine/journal.py : MOVES_PER_STATEMENT = 500 → MOVES_PER_STATEMENT = 499",
    ),
    "what a torn file makes SQLite and SQLAlchemy raise; tests/unit/engine/test_journal_damage.py plays thousands, too slow here": (
        "cellmove/engine/journal_open.py : except (integrity.Damaged, SQLAlchemyError, ValueError, TypeError, ArithmeticError) as error: → except (integrity.Damaged, NotImplementedError, ValueError, TypeError, ArithmeticError) as error:",
        "cellmove/engine/journal_open.py : except (integrity.Damaged, SQLAlchemyError, ValueError, TypeError, ArithmeticError) as error: → except (integrity.Damaged, SQLAlchemyError, NotImplementedError, TypeError, ArithmeticError) as error:",
        "cellmove/engine/journal_open.py : except (integrity.Damaged, SQLAlchemyError, ValueError, TypeError, ArithmeticError) as error: → except (integrity.Damaged, SQLAlchemyError, ValueError, NotImplementedError, ArithmeticError) as error:",
        "cellmove/engine/journal_open.py : except (integrity.Damaged, SQLAlchemyError, ValueError, TypeError, ArithmeticError) as error: → except (integrity.Damaged, SQLAlchemyError, ValueError, TypeError, NotImplementedError) as error:",
    ),
    "a State is a str, which is what is stored": (
        'cellmove/engine/journal_rows.py move_values: "state": move.state.value, → "state": move.state,',
    ),
    "a key of two columns is never counted up by the database": (
        'cellmove/engine/integrity.py make_metadata: Column("sequence", Integer, primary_key=True, autoincrement=False), → Column("sequence", Integer, primary_key=True),',
    ),
    "SQLite reads the lines of a move in the order of their key, move and sequence; MariaDB need not": (
        'cellmove/engine/integrity.py lines: rows = connection.execute(statements.rows(entries, "move_id", order=("sequence",)), {"move_id": move_id}).all() → rows = connection.execute(statements.rows(entries, "move_id"), {"move_id": move_id}).all()',
        'cellmove/engine/integrity.py _by_move: query = statements.rows(entries, order=("move_id", "sequence")) → query = statements.rows(entries)',
    ),
    "events of other actions are read and then left out: only actions of the server have a new id": (
        'cellmove/db/history.py _keys_of_events: owners = statements.rows(actions, "instance_uuid", columns=("id",)).where( → owners = statements.rows(actions, columns=("id",)).where(',
        'cellmove/db/history.py _keys_of_events: owners = statements.rows(actions, "instance_uuid", columns=("id",)).where( actions.c.deleted == bindparam("alive", 0) ) → owners = statements.rows(actions, "instance_uuid", columns=("id",)).where()',
        "cellmove/db/history.py _keys_of_events: return query.where(events.c.action_id.in_(owners)) → return query.where()",
    ),
    "all actions are of one server": (
        'cellmove/db/records.py _insert_actions: found = connection.execute(query, {"instance_uuid": actions[0]["instance_uuid"]}).scalars().all() → found = connection.execute(query, {"instance_uuid": actions[ -1]["instance_uuid"]}).scalars().all()',
    ),
    "a transaction finds as many rows as it has inserted": (
        'cellmove/db/records.py _insert_actions: new_ids = dict(zip((row["id"] for row in actions), found[-len(actions) :], strict=True)) → new_ids = dict(zip((row["id"] for row in actions), found[-len(actions) :], strict=False))',
        'cellmove/db/records.py _insert_actions: new_ids = dict(zip((row["id"] for row in actions), found[-len(actions) :], strict=True)) → new_ids = dict(zip((row["id"] for row in actions), found[-len(actions) :]))',
    ),
    "SQLite reads the actions of a server in the order of their ids; MariaDB need not": (
        'cellmove/db/records.py _insert_actions: query = statements.rows(table, "instance_uuid", columns=("id",), order=("id",)) → query = statements.rows(table, "instance_uuid", columns=("id",))',
        'cellmove/db/history.py _copy_actions: keys = statements.rows(source["instance_actions"], *mine, columns=columns, order=("id",)) → keys = statements.rows(source["instance_actions"], *mine, columns=columns)',
    ),
    "how many rows are in memory at a time": (
        "cellmove/db/history.py : ROWS_A_STATEMENT = 1000 → ROWS_A_STATEMENT = 1001",
        "cellmove/db/history.py : ROWS_A_STATEMENT = 1000 → ROWS_A_STATEMENT = 999",
        "cellmove/engine/integrity.py : PAGE_ROWS = 1000 → PAGE_ROWS = 1001",
        "cellmove/engine/integrity.py : PAGE_ROWS = 1000 → PAGE_ROWS = 999",
        "cellmove/engine/integrity.py _by_move: rows = (row._mapping for row in connection.execution_options(yield_per=PAGE_ROWS).execute(query)) → rows = (row._mapping for row in connection.execution_options().execute(query))",
    ),
    "open_server is the id of a server or NULL, and never empty": (
        'cellmove/engine/integrity.py _open_rows: return statements.rows(moves).where(moves.c.open_server > "") # uses the index, which IS NOT NULL does not → return statements.rows(moves).where(moves.c.open_server >= "") # uses the index, which IS NOT NULL does not',
    ),
    "which line of SQLite's words is shown": (
        'cellmove/engine/integrity.py require_sound_pages: raise Damaged(f"its pages are damaged: {str(said).splitlines()[-1]}") → raise Damaged(f"its pages are damaged: {str(said).splitlines()[- 2]}")',
        'cellmove/engine/integrity.py require_sound_pages: raise Damaged(f"its pages are damaged: {str(said).splitlines()[-1]}") → raise Damaged(f"its pages are damaged: {str(said).splitlines()[- 0]}")',
    ),
    "an upgrade that is made twice gives the same": (
        "cellmove/engine/journal_upgrade.py _upgrade: if version == VERSION: ⏎ return → pass",
    ),
    "json escapes other characters by default, as it is told here": (
        'cellmove/engine/integrity.py : _encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=repr).encode # a torn value may be bytes → _encode = json.JSONEncoder(separators=(",", ":"), default=repr).encode # a torn value may be bytes',
    ),
    "the version is compared once more when the journal is checked": (
        "cellmove/engine/journal_open.py _without_writing: journal_file.require_known(str(path), journal_file.version_of(path) if is_there else integrity.VERSION) → journal_file.require_known(str(path), journal_file.version_of(path) if not is_there else integrity.VERSION)",
        "cellmove/engine/journal_open.py _without_writing: journal_file.require_known(str(path), journal_file.version_of(path) if is_there else integrity.VERSION) → pass",
    ),
    "the argument is for shared journals, and this is a file": (
        "cellmove/engine/journal_open.py _without_writing: _require_sound(journal, only_reads=True) → _require_sound(journal, only_reads=False)",
    ),
    "a file that is not there cannot be written to either; one of one byte is damaged either way": (
        "cellmove/engine/journal_open.py _without_writing: if is_there and journal_file.can_be_written(path): → if journal_file.can_be_written(path):",
        "cellmove/engine/journal_open.py _without_writing: is_there = path.exists() and path.stat().st_size > 0 → is_there = path.exists() and path.stat().st_size > 1",
    ),
    "no server's UUID looks like the id of a move": (
        "cellmove/engine/journal.py Journal.find: if kind is Kind.MOVE_ID: ⏎ return [] → pass",
    ),
    "SQLite compares exactly; MariaDB, which does not, has the second comparison": (
        "cellmove/engine/journal.py Journal.moves_named: for move in self._with(server_name=server_name) → for move in self._with()",
        "cellmove/engine/journal.py Journal.moves_named: if not move.is_drain and move.server_name == server_name → if not move.is_drain",
    ),
    "SQLAlchemy hides passwords unless it is told not to": (
        "cellmove/engine/journal_open.py open_journal: location = str(path or database.url.render_as_string(hide_password=True)) → location = str(path or database.url.render_as_string())",
    ),
    "the URL of a journal in a file always has a path": (
        'cellmove/engine/journal_open.py open_journal: path = Path(database.url.database or "") if database.is_sqlite else None → path = Path(database.url.database) if database.is_sqlite else None',
    ),
    "upgrading a journal of this version finds its columns there and changes nothing": (
        "cellmove/engine/journal_open.py _require_sound: if version < integrity.VERSION: → if version <= integrity.VERSION:",
    ),
}
"""Keys of mutants (``PATH FUNCTION: BEFORE → AFTER``) by the reason for which they may live."""

TOLERATED: Mapping[str, str] = {key: reason for reason, keys in REASONS.items() for key in keys}
