"""Types of oslo.messaging and oslo.config, which have no type annotations."""

from __future__ import annotations

from typing import Any, TypeAlias

Conf: TypeAlias = Any
"""``oslo_config.cfg.ConfigOpts``."""

Opt: TypeAlias = Any
"""``oslo_config.cfg.Opt``."""

OptionValue: TypeAlias = Any
"""The value of an option: its type depends on the option."""

TransportUrl: TypeAlias = Any
"""``oslo_messaging.TransportURL``."""

TransportHost: TypeAlias = Any
"""``oslo_messaging.TransportHost``."""

OsloTransport: TypeAlias = Any
"""``oslo_messaging.transport.RPCTransport`` or ``NotificationTransport``."""

RpcClient: TypeAlias = Any
"""``oslo_messaging.rpc.client.RPCClient``, prepared for one call."""

AmqpConnection: TypeAlias = Any
"""``amqp.Connection``."""
