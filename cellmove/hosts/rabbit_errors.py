"""Translates the exceptions of oslo.messaging.

Only an exception that the receiver raised becomes :class:`CallFailed`. A failure on cellmove's own side never looks like a
result of the receiver. Built-in exceptions of the receiver arrive as themselves, with a remote traceback in their text.
"""

from __future__ import annotations

from cellmove.core.errors import CallError, CallFailed, CallUncertain, CannotConnect

REMOTE_TRACEBACK = "\nTraceback (most recent call last)"
"""oslo.messaging adds it to the text of the receiver's built-in exceptions (_drivers/common.py,
``deserialize_remote_exception``). No local exception contains it."""


def translated(error: Exception, name: str, method: str) -> CallError:
    """Return the error that an exception of oslo.messaging means.

    :param name: the bus, for the message
    """
    import amqp
    import kombu
    import oslo_messaging

    text = _text_of(error)
    if REMOTE_TRACEBACK in text:
        return CallFailed(f"{type(error).__name__}: {_first_line(text)}", kind=type(error).__name__)
    if isinstance(error, oslo_messaging.MessagingTimeout):
        return CallUncertain(f"{method} on the bus of {name} got no answer in time")
    if isinstance(error, oslo_messaging.RemoteError):
        return CallFailed(f"{error.exc_type}: {_first_line(error.value)}", kind=str(error.exc_type))
    if isinstance(error, oslo_messaging.MessageDeliveryFailure):
        return _undelivered(error, name, method)
    if isinstance(error, kombu.exceptions.OperationalError):  # only of opening a connection; see impl_rabbit.py, ensure
        return CannotConnect(f"no broker of {name} can be reached for {method}: {_first_line(error)}")
    if isinstance(error, amqp.exceptions.AMQPError):
        return CannotConnect(f"the broker of {name} refused: {_first_line(error)}")
    if isinstance(error, (ConnectionError, TimeoutError)):
        return CallUncertain(f"the connection to the broker of {name} broke during {method}")
    return CallUncertain(
        f"{method} on the bus of {name} failed on this side ({type(error).__name__}: {_first_line(text)}); "
        "whether it was sent is not known"
    )


def _undelivered(error: Exception, name: str, method: str) -> CallError:
    """Return the error for a message that could not be delivered. A broker that refuses a message has not queued it."""
    import amqp

    cause = error.__context__
    if isinstance(cause, amqp.exceptions.ChannelError):
        return CannotConnect(f"the broker of {name} refused {method}: {_first_line(cause.reply_text or cause)}")
    return CallUncertain(f"whether the broker of {name} accepted {method} is not known")


def _text_of(error: Exception) -> str:
    """Return the text of an exception. ``str()`` of a KeyError, or of one with several arguments, quotes it on one line."""
    return error.args[0] if error.args and isinstance(error.args[0], str) else str(error)


def _first_line(value: object) -> str:
    text = str(value).strip()
    return text.splitlines()[0] if text else ""
