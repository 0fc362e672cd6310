"""What can go wrong, sorted by consequence.

Two families. The first is for people: a :class:`CellmoveError` ends a command, carries the exit
code of its consequence and says what happened, in what state the server is and what to type next.
The second is for the pipeline: a :class:`CallError` is what one call to the cloud came to; the
pipeline turns it into a consequence. Neither ever carries a secret: whoever raises one passes only
text that may be shown.
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
"""What a secret looks like in another program's words, and what is put in its place."""


def scrub(text: str) -> str:
    """Other programs' words without the passwords and tokens that they may hold."""
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


class CellmoveError(Exception):
    """Ends a command. ``exit_code`` is the consequence; see the README's table of exit codes.

    :param message: what happened, one or a few plain lines without secrets
    :param state: in what state the server (or the cloud) is now; may be empty
    :param next_command: the command to type next; may be empty
    """

    exit_code = 1

    def __init__(self, message: str, *, state: str = "", next_command: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.state = state
        self.next_command = next_command


class RolledBack(CellmoveError):
    """The move or step failed and was rolled back completely; trying again is safe."""

    exit_code = 1


class Usage(CellmoveError):
    """The command line (or the configuration) asks for something that makes no sense."""

    exit_code = 2


class Stopped(CellmoveError):
    """Stopped part-way; the journal records where. ``next_command`` goes on or rolls it back."""

    exit_code = 3


class Unreachable(CellmoveError):
    """A database, a bus or an API cannot be reached or does not let us in; nothing was written."""

    exit_code = 4


class JournalUnreachable(Unreachable):
    """It is the journal: without it nothing more may be begun."""


class JournalLost(Stopped):
    """The journal was lost in the middle of a move."""


class Refused(CellmoveError):
    """A check said no before anything was written."""

    exit_code = 5


class OlderJournal(Refused):
    """The journal is older than the move: another copy of it has gone on."""


class Unverified(Refused):
    """A moved server differs from its state before the move."""


class Locked(CellmoveError):
    """Another run holds the lock of this server."""

    exit_code = 6


class RollbackFailed(CellmoveError):
    """Rolling back failed as well; the message lists what is left to do by hand."""

    exit_code = 7


class SomeFailed(CellmoveError):
    """A drain is through, and some servers failed or were left where they are."""

    exit_code = 8


class ServersRemain(CellmoveError):
    """A drain was stopped by its window or a stop rule; servers remain that wait for the next run."""

    exit_code = 9


class LeftoversRemain(CellmoveError):
    """An audit found leftovers that are still there."""

    exit_code = 10


class Interrupted(CellmoveError):
    """A signal ended the run after the action in hand was journalled (130 SIGINT, 143 SIGTERM)."""

    exit_code = 130

    def __init__(self, message: str, *, signal_number: int, state: str = "", next_command: str = "") -> None:
        super().__init__(message, state=state, next_command=next_command)
        self.exit_code = 128 + signal_number


class CallError(Exception):
    """One call to the cloud did not go well. ``str()`` of it is safe to show: it is scrubbed here."""

    def __init__(self, message: str) -> None:
        super().__init__(scrub(message))


class CallFailed(CallError):
    """The other side answered no (an HTTP 4xx or 5xx, a remote exception, a lost compare-and-swap).

    :param message: what it said, first line only
    :param kind: a short machine word: the HTTP status, the remote exception's class, ``conflict``
    """

    def __init__(self, message: str, *, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class NotFound(CallFailed):
    """The thing asked for is not there (HTTP 404, no such row)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="404")


class Unexpected(CallFailed):
    """What is to be undone is not as the journal says; nothing was changed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="unexpected")


class MovedElsewhere(CallFailed):
    """Another journal's move has the server: trying again is of no use before that move is over."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="moved-elsewhere")


class CallUncertain(CallError):
    """The call may or may not have had its effect: a timeout, a connection lost after sending."""


class CannotConnect(CallError):
    """Nothing was sent: the other side cannot be reached, or does not accept our credentials."""


class Misconfigured(CannotConnect):
    """Nothing was sent: a setting, or a file that it names, cannot be used as it is. Trying again does not help."""


class BadSetting(ValueError):
    """A value cannot be used; the text says why and holds no secret. Where it is set the caller adds."""


def consequence_of_call(error: CallError, *, state: str = "", next_command: str = "cellmove list") -> CellmoveError:
    """Return what ends a command whose call failed outside of every action."""
    if isinstance(error, CannotConnect):
        return before_writing(error, state="")
    return Stopped(str(error), state=state, next_command=next_command)


def before_writing(error: CallError, *, state: str = "nothing was written", next_command: str = "") -> CellmoveError:
    """Return what ends a command whose call failed before anything was written."""
    kind = Usage if isinstance(error, Misconfigured) else Unreachable
    return kind(str(error), state=state, next_command=next_command)
