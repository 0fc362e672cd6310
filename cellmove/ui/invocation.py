"""What the options before and after a command's name say, and what the command is about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cellmove.core.shell import GlobalOptions
from cellmove.engine.events import Event

if TYPE_CHECKING:
    pass


FORMATS = ("table", "json", "value")


@dataclass
class Options:
    """What the options before and after the verb say, and what the command at hand is about.

    :param typed: its command line, without the options in front of the verb and those about its output
    :param reference: the server or move that it names; empty: none
    :param is_about_many: it may work on several servers at once
    :param session: once it is open
    :param move_id: of the move that was last heard of
    """

    nova_conf: str | None = None
    os_cloud: str | None = None
    os_region_name: str | None = None
    journal: str | None = None
    config: str | None = None
    form: str = "table"
    quiet: bool = False
    yes: bool = False
    answered: bool = False  # whether stdout has its one document
    typed: str = ""
    verb: str = ""
    reference: str = ""
    is_about_many: bool = False
    session: Any = None
    move_id: str = ""

    @property
    def again(self) -> str:
        """What to type when it is not known which move is meant: the same command, or what finishes the move."""
        if self.move_id and not self.is_about_many:
            return f"cellmove {'rollback' if self.verb == 'rollback' else 'resume'} {self.move_id}"
        return self.typed or "cellmove list"

    @property
    def in_front(self) -> GlobalOptions:
        """The options in front of the verb, for every command that is shown."""
        return GlobalOptions(self.nova_conf, self.os_cloud, self.os_region_name, self.journal, self.config)

    def hear(self, event: Event) -> Event:
        """Learn from an event which move is under way.

        :returns: the event as it is shown
        """
        self.move_id = event.move_id or self.move_id
        return replace(event, text=self.in_front.inserted(event.text), title=self.in_front.inserted(event.title))

    def flags(self) -> dict[str, str | None]:
        """The options that settings.py knows."""
        names = ("nova_conf", "os_cloud", "os_region_name", "journal", "config")
        return {name: getattr(self, name) for name in names}
