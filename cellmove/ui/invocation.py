"""The options of one command line, and the server or move that its command is about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cellmove.core.shell import GlobalOptions
from cellmove.engine.events import Event

if TYPE_CHECKING:
    from cellmove.operations.context import Session

FORMATS = ("table", "json", "value")


@dataclass
class Options:
    """The options of a command line, and the server or move that its command is about.

    :param output_format: one of :data:`FORMATS`
    :param has_answered: stdout has the one document of the command
    :param typed: the command line without the global options and those about its output
    :param verb: the name of the command
    :param reference: the server or move that the command names; empty: none
    :param is_about_many: the command can work on several servers
    :param session: None until it is open
    :param move_id: of the move that the latest event was about
    """

    nova_conf: str | None = None
    os_cloud: str | None = None
    os_region_name: str | None = None
    journal: str | None = None
    config: str | None = None
    output_format: str = "table"
    quiet: bool = False
    yes: bool = False
    has_answered: bool = False
    typed: str = ""
    verb: str = ""
    reference: str = ""
    is_about_many: bool = False
    session: Session | None = None
    move_id: str = ""

    @property
    def retry_command(self) -> str:
        """The command that continues the move of the latest event; before any event, the same command again."""
        if self.move_id and not self.is_about_many:
            return f"cellmove {'rollback' if self.verb == 'rollback' else 'resume'} {self.move_id}"
        return self.typed or "cellmove list"

    @property
    def global_options(self) -> GlobalOptions:
        """The options before the name of the command, for every command that is printed."""
        return GlobalOptions(self.nova_conf, self.os_cloud, self.os_region_name, self.journal, self.config)

    def record_event(self, event: Event) -> Event:
        """Remember which move an event is about.

        :returns: the event as it is shown
        """
        self.move_id = event.move_id or self.move_id
        insert = self.global_options.inserted
        return replace(event, text=insert(event.text), title=insert(event.title))

    def settings_flags(self) -> dict[str, str | None]:
        """The options that override settings, by the names of the settings."""
        return {
            "nova_conf": self.nova_conf,
            "os_cloud": self.os_cloud,
            "os_region_name": self.os_region_name,
            "journal": self.journal,
            "config": self.config,
        }
