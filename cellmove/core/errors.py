"""Errors, by their consequence.

There are two families. A :class:`CellmoveError` ends a command: it carries an exit code and says what happened, what state
the server is in, and which command to type next. A :class:`CallError` is the failure of one call to the cloud; the executor
turns it into a :class:`CellmoveError`. The text of an error never contains a secret.
"""

from __future__ import annotations

import re

SECRETS = (
    (re.compile(r"(://[^\s/:@]*:)[^\s'\"]+@"), r"\1***@"),  # a URL's password, with whatever stands in it
    (re.compile(r"\bgAAAA[\w=-]{16,}"), "***"),  # a fernet token
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), "***"),  # a JWS token
    (
        re.compile(
            r"(?i)\b((?:x-(?:auth|service|subject)-token|authorization|auth_token|(?!password: (?:YES|NO)\))\w*password"
            r"|admin_?pass|secret)"
            r"['\"]?\s*[:=]\s*(?:u?['\"])?(?:bearer |basic )?)[^\s'\",;&}]+"
        ),
        r"\1***",
    ),
)
"""Patterns of secrets in messages of other programs, and their replacements."""


def scrub(text: str) -> str:
    """Return a message of another program without the passwords and tokens in it."""
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


class CellmoveError(Exception):
    """An error that ends a command. ``exit_code`` is explained in the README.

    :param message: what failed and why, in one or a few lines without secrets
    :param state: the state of the server or the cloud; may be empty
    :param next_command: the command to type next; may be empty
    """

    exit_code = 1

    def __init__(self, message: str, *, state: str = "", next_command: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.state = state
        self.next_command = next_command


class RolledBack(CellmoveError):
    """The move or step failed and was rolled back completely; it is safe to repeat the command."""

    exit_code = 1


class Usage(CellmoveError):
    """The command line or the configuration cannot be used."""

    exit_code = 2


class Stopped(CellmoveError):
    """The move stopped part-way, and the journal records where. ``next_command`` resumes it or rolls it back."""

    exit_code = 3


class Unreachable(CellmoveError):
    """A database, a bus or an API cannot be reached, or refuses the login; nothing was written."""

    exit_code = 4


class JournalUnreachable(Unreachable):
    """The journal cannot be reached; no action is started without it."""


class JournalLost(Stopped):
    """The journal became unreachable during a move."""


class Refused(CellmoveError):
    """A check refused the command before anything was written."""

    exit_code = 5


class OlderJournal(Refused):
    """The journal is older than the move: another copy of it has continued the move."""


class Unverified(Refused):
    """A moved server differs from its state before the move."""


class Locked(CellmoveError):
    """Another run holds the lock of this server."""

    exit_code = 6


class RollbackFailed(CellmoveError):
    """The rollback failed, too; the message lists the steps to do by hand."""

    exit_code = 7


class SomeFailed(CellmoveError):
    """A drain has ended, and some servers failed or were skipped."""

    exit_code = 8


class ServersRemain(CellmoveError):
    """A window or a stop rule ended a drain; the next run continues with the remaining servers."""

    exit_code = 9


class LeftoversRemain(CellmoveError):
    """An audit found leftovers that it has not repaired."""

    exit_code = 10


class Interrupted(CellmoveError):
    """A signal ended the run after the current action was journalled (130 SIGINT, 143 SIGTERM)."""

    exit_code = 130

    def __init__(self, message: str, *, signal_number: int, state: str = "", next_command: str = "") -> None:
        super().__init__(message, state=state, next_command=next_command)
        self.exit_code = 128 + signal_number


class CallError(Exception):
    """The failure of one call to the cloud. Its text is free of secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(scrub(message))


class CallFailed(CallError):
    """A call that failed for certain: an HTTP 4xx or 5xx, a remote exception, a lost compare-and-swap.

    :param message: the first line of the answer
    :param kind: the HTTP status, the class of the remote exception, or ``conflict``
    """

    def __init__(self, message: str, *, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class NotFound(CallFailed):
    """The object of the call does not exist (HTTP 404, no such row)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="404")


class Unexpected(CallFailed):
    """The state of the cloud differs from the journal, so an undo changed nothing."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="unexpected")


class MovedElsewhere(CallFailed):
    """A move of another journal owns the server; a retry cannot succeed before that move has ended."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="moved-elsewhere")


class CallUncertain(CallError):
    """A call that may have had its effect: a timeout, or a connection lost after sending."""


class CannotConnect(CallError):
    """A call that was not sent: the service cannot be reached, or refuses the credentials."""


class Misconfigured(CannotConnect):
    """A call that was not sent: a setting, or a file that it names, cannot be used. A retry cannot succeed."""


class BadSetting(ValueError):
    """A value that cannot be used. The text gives the reason without secrets; the caller adds the setting."""


def consequence_of_call(error: CallError, *, state: str = "", next_command: str = "cellmove list") -> CellmoveError:
    """Return the error that ends a command after a call outside of any action failed."""
    if isinstance(error, CannotConnect):
        return before_writing(error, state="")
    return Stopped(str(error), state=state, next_command=next_command)


def before_writing(error: CallError, *, state: str = "nothing was written", next_command: str = "") -> CellmoveError:
    """Return the error that ends a command after a call failed and before anything was written."""
    kind = Usage if isinstance(error, Misconfigured) else Unreachable
    return kind(str(error), state=state, next_command=next_command)
