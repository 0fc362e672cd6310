"""Write the man pages and the shell completions from the commands themselves: ``python -m cellmove.man_pages man/``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from cellmove.cli import cli
from cellmove.core import settings
from cellmove.ui.group import EXIT_CODES, subcommands
from cellmove.ui.options import option_groups

FILES = (
    ("nova.conf", "databases, message buses and neutron's credential; see --nova-conf"),
    (
        "config.toml",
        "settings of cellmove, rules for what may be moved ([policy]), whether cells have separate disk stores "
        "(disk_stores), and commands that run after a move ([hooks]); see --config. Default: "
        "~/.config/cellmove/config.toml",
    ),
    ("clouds.yaml", "the operator's administrator rights; see --os-cloud, --os-region-name and OS_CLOUD"),
)
RELATED = {"cellmove-drain-cell": ("cellmove-drain",), "cellmove-drain": ("cellmove-drain-cell",)}
"""Further pages that a page refers to."""

ENVIRONMENT = (
    ("CELLMOVE_CONFIG", "the same as --config"),
    *((variable, f"the setting {name}") for name, variable in settings.ENVIRONMENT.items()),
    ("NO_COLOR", "if set: no colours and no other escape sequences on a terminal"),
    ("CELLMOVE_DEBUG", "if set: show the traceback of a fault in cellmove"),
)


def man_pages() -> Mapping[str, str]:
    """Return the text of every page by its file name."""
    pages = {"cellmove.1": _page(cli, ("cellmove",))}
    for words, command in commands():
        pages[f"{'-'.join(('cellmove', *words))}.1"] = _page(command, ("cellmove", *words))
    return pages


class _BashComplete(ShellComplete):
    """click's completion for bash, without starting a bash to check its version: ``make man`` needs no shell."""

    name = BashComplete.name
    source_template = BashComplete.source_template


COMPLETIONS: tuple[tuple[str, type[ShellComplete]], ...] = (
    ("cellmove", _BashComplete),
    ("_cellmove", ZshComplete),
    ("cellmove.fish", FishComplete),
)
"""The completion script of each shell, under the file name by which the shell finds it."""


def completions() -> Mapping[str, str]:
    """Return the text of every completion script by its file name."""
    return {
        name: f"{shell(cli, {}, 'cellmove', '_CELLMOVE_COMPLETE').source().strip()}\n" for name, shell in COMPLETIONS
    }


def commands(group: click.Group = cli, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with the words that name it. The commands of a group follow their group."""
    for name, command in subcommands(group).items():
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))


def write(directory: Path) -> list[Path]:
    """Write all man pages, and below them all completion scripts.

    :return: the paths of the files written
    """
    texts = {directory / name: text for name, text in man_pages().items()}
    texts |= {directory / "completion" / name: text for name, text in completions().items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _page(command: click.Command, words: tuple[str, ...]) -> str:
    top = click.Context(cli, info_name="cellmove", help_option_names=cli.context_settings["help_option_names"])
    context = top if command is cli else click.Context(command, info_name=" ".join(words), parent=top)
    title = "-".join(words)
    summary = command.short_help or (command.help or "").split("\n", 1)[0]
    lines = [f'.TH {title.upper()} 1 "" "cellmove" "Moving servers between cells"', ".SH NAME"]
    lines.append(f"{_roff(title)} \\- {_roff(summary.rstrip('.')[:1].lower() + summary.rstrip('.')[1:])}")
    pieces = " ".join(command.collect_usage_pieces(context))
    lines += [".SH SYNOPSIS", f".B {_roff(' '.join(words))}", _roff(pieces)]
    lines += [".SH DESCRIPTION", *_paragraphs(command.help or ""), *_options(command, context)]
    if isinstance(command, click.Group):
        pages = ((f"{title}-{name}(1)", child.short_help) for name, child in subcommands(command).items())
        lines += [".SH COMMANDS", *_listed(pages)]
    if command is cli:
        lines += [".SH ENVIRONMENT", *_listed(ENVIRONMENT), ".SH FILES", *_listed(FILES)]
    lines += [".SH EXIT STATUS", *_listed(EXIT_CODES.items()), ".SH SEE ALSO"]
    lines.append(",\n".join(f".BR {_roff(other)} (1)" for other in _related(command, words)))
    return "\n".join(lines) + "\n"


def _options(command: click.Command, context: click.Context) -> list[str]:
    lines = [".SH OPTIONS"]
    for heading, options in option_groups(command, context):
        if heading != "Options":
            lines.append(f".SS {_roff(heading)}")
        elif len(lines) > 1:
            lines.append(".SS Other options")
        lines += _listed(record for option in options if (record := option.get_help_record(context)))
    return lines


def _related(command: click.Command, words: tuple[str, ...]) -> list[str]:
    """The pages that a page refers to: those of a group's commands, and the one above it."""
    title, above = "-".join(words), ["-".join(words[:-1])] if len(words) > 1 else []
    others = [f"{title}-{name}" for name in subcommands(command)] if isinstance(command, click.Group) else []
    return [*above, *others, *(page for page in RELATED.get(title, ()) if page not in above)]


def _listed(pairs: Iterable[tuple[str, str | None]]) -> list[str]:
    lines: list[str] = []
    for term, text in pairs:
        lines += [".TP", f"\\fB{_roff(term)}\\fR", _roff(text or "")]
    return lines


def _paragraphs(text: str) -> list[str]:
    """click's help text: paragraphs between empty lines; one that begins with \\b keeps its lines."""
    lines: list[str] = []
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        if paragraph.lstrip().startswith("\b"):
            kept = [line.strip() for line in paragraph.replace("\b", "").strip().splitlines()]
            lines += [".SH EXAMPLE" if kept[0] == "Example:" else ".PP", ".nf", *map(_roff, kept[1:]), ".fi"]
        else:
            lines += [*([".PP"] if number else []), _roff(" ".join(paragraph.split()))]
    return lines


def _roff(text: str) -> str:
    """Escape text for roff: no line starts a request, and hyphens can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "man"))
