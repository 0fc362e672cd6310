"""Lets nova's superconductor die at an exact place of a move: rows that it is about to write are held, then it is killed.

Nothing of nova is changed by that: a lock in the database only makes it wait, as a busy database would, and the lock
is given up when nobody is there any more to go on.
"""

import signal
import threading
import time

from lab import cloud, processes
from lab.client import layout, wait_for
from lab.rows import connect_database

SUPERCONDUCTOR = "nova-superconductor"


class Hold:
    """Locked rows, from a connection of its own; rows that refer to them cannot be inserted either."""

    def __init__(self, statement, *values):
        self.connection = connect_database()
        self.connection.autocommit(False)
        with self.connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            self.connection.begin()
            self.found = cursor.execute(f"{statement} FOR UPDATE", values)

    def is_met(self):
        """Whether somebody waits for what is held."""
        watcher = connect_database()
        try:
            with watcher.cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) AS waiting FROM information_schema.INNODB_LOCK_WAITS w "
                    "JOIN information_schema.INNODB_TRX t ON t.trx_id = w.blocking_trx_id "
                    "WHERE t.trx_mysql_thread_id = %s",
                    (self.connection.thread_id(),),
                )
                return cursor.fetchone()["waiting"] > 0
        finally:
            watcher.close()

    def release(self):
        """Give the rows up; what waits for them in the name of somebody who is dead is rolled back."""
        self.connection.rollback()
        self.connection.close()


def seen(statement, *values, seconds=60.0):
    """Wait until a statement gives a row, looking often."""
    connection = connect_database()
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with connection.cursor() as cursor:
                if cursor.execute(statement, values):
                    return
            time.sleep(0.01)
    finally:
        connection.close()
    raise TimeoutError(f"never seen: {statement} {values}")


def hold_when(condition, statement, server_id, box):
    """In a thread of its own: hold rows as soon as a condition is seen; the hold is put into `box`."""

    def work():
        seen(condition, server_id)
        box.append(Hold(statement, server_id))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def stop_superconductor():
    """SIGSTOP for all of its processes: from here on it writes nothing."""
    master = processes.running_pid(layout(), SUPERCONDUCTOR)
    processes.send([master, *processes.members(layout(), master)], signal.SIGSTOP)


def kill_superconductor():
    """SIGKILL for all of its processes."""
    cloud.stop_daemon(SUPERCONDUCTOR)


def start_superconductor():
    """Start it again and wait until it answers."""
    cloud.start_daemon(SUPERCONDUCTOR)


__all__ = [
    "SUPERCONDUCTOR", "Hold", "hold_when", "kill_superconductor", "seen", "start_superconductor",
    "stop_superconductor", "wait_for",
]  # fmt: skip
