"""Writes the man pages from the commands' own help: ``python -m cellmove.docs man/``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from cellmove import settings
from cellmove.cli import cli
from cellmove.command import EXIT_CODES

FILES = (
    ("nova.conf", "databases, message buses and neutron's credential; see --nova-conf"),
    (
        "config.toml",
        "cellmove's own settings, what may be moved and whether unattended ([policy]), and which cells keep their disks "
        "apart (disk_stores); see --config. By default ~/.config/cellmove/config.toml",
    ),
    ("clouds.yaml", "the operator's admin rights; see --os-cloud and OS_CLOUD"),
)
ENVIRONMENT = (
    ("CELLMOVE_CONFIG", "as --config"),
    *((variable, f"the setting {name}") for name, variable in settings.ENVIRONMENT.items()),
    ("NO_COLOR", "set to anything: no colours on a terminal"),
    ("CELLMOVE_DEBUG", "set to anything: show a fault in cellmove itself in full"),
)


def commands() -> Mapping[str, click.Command]:
    """Every command by the words that are typed after ``cellmove``; groups and what is in them."""
    found: dict[str, click.Command] = {}
    for name, command in cli.commands.items():
        found[name] = command
        inner = command.commands if isinstance(command, click.Group) else {}
        found |= {f"{name} {verb}": one for verb, one in inner.items()}
    return found


def man_pages() -> Mapping[str, str]:
    """Every page by its file name."""
    pages = {"cellmove.1": _page(cli, "cellmove")}
    for words, command in commands().items():
        pages[f"cellmove-{words.replace(' ', '-')}.1"] = _page(command, f"cellmove {words}")
    return pages


def write(directory: Path) -> list[Path]:
    """Write all pages; returns where."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in man_pages().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _page(command: click.Command, line: str) -> str:
    is_top = command is cli
    inner = command.commands if isinstance(command, click.Group) else {}
    top = click.Context(cli, info_name="cellmove", help_option_names=cli.context_settings["help_option_names"])
    context = top if is_top else click.Context(command, info_name=line, parent=top)
    title = line.replace(" ", "-")
    what = command.short_help or (command.help or "").split("\n", 1)[0]
    lines = [f'.TH {title.upper()} 1 "" "cellmove" "Moving servers between cells"', ".SH NAME"]
    lines.append(f"{_roff(title)} \\- {_roff(what.rstrip('.')[:1].lower() + what.rstrip('.')[1:])}")
    pieces = " ".join(command.collect_usage_pieces(context))
    lines += [".SH SYNOPSIS", f".B {_roff(line)}", _roff(pieces), ".SH DESCRIPTION", *_paragraphs(command.help or "")]
    lines.append(".SH OPTIONS")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and isinstance(parameter, click.Option):
            lines += [".TP", f"\\fB{_roff(record[0])}\\fR", _roff(record[1])]
    if inner:
        pages = ((f"{title}-{name}(1)", one.short_help) for name, one in inner.items())
        lines += [".SH COMMANDS", *_listed(pages)]
    if is_top:
        lines += [".SH ENVIRONMENT", *_listed(ENVIRONMENT), ".SH FILES", *_listed(FILES)]
    lines += [".SH EXIT STATUS", *_listed(EXIT_CODES.items()), ".SH SEE ALSO"]
    others = [f"{title}-{name}" for name in inner] + ([] if is_top else ["cellmove"])
    lines.append(",\n".join(f".BR {_roff(other)} (1)" for other in others))
    return "\n".join(lines) + "\n"


def _listed(pairs: Iterable[tuple[str, str | None]]) -> list[str]:
    lines: list[str] = []
    for term, words in pairs:
        lines += [".TP", f"\\fB{_roff(term)}\\fR", _roff(words or "")]
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
    """Text that roff prints as it stands: no line begins a request, hyphens can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "man"))
