"""The command ``metrics``."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import click

from cellmove.core.errors import Unreachable
from cellmove.ui.invocation import Options
from cellmove.ui.options import pass_options
from cellmove.ui.running import running


@click.command("metrics", short_help="Print metrics of moves and drains for Prometheus.")
@click.option(
    "--textfile",
    metavar="FILE",
    help="Write to FILE, for node_exporter's textfile collector, instead of standard output.",
)
@pass_options
def metrics(options: Options, textfile: str | None) -> None:
    """Print metrics of moves and drains for Prometheus: states, durations, downtimes, failures, progress.

    metrics reads only the journal. Standard output is OpenMetrics. FILE is in the text format of Prometheus, has
    mode 0644 and is replaced atomically; its name must end in .prom. If the journal cannot be read, the old FILE
    stays, and its modification time shows its age. docs/metrics.md describes every metric, alerts and a dashboard.

    \b
    Example:
      cellmove metrics
      cellmove metrics --textfile /var/lib/prometheus/node-exporter/cellmove.prom
    """
    if options.output_format == "json":
        raise click.UsageError("metrics prints OpenMetrics, not JSON")
    if textfile is not None and not textfile.endswith(".prom"):
        raise click.UsageError(f"--textfile {textfile}: node_exporter reads only files whose name ends in .prom")
    with running(options, activity="", only_reads=True) as session:
        from cellmove.ui.metrics import exposition, gather

        text = exposition(gather(session), version("cellmove"), is_for_file=textfile is not None)
    if textfile is None:
        _print(options, text)
    else:
        _write(Path(textfile), text)


def _print(options: Options, text: bytes) -> None:
    from cellmove.ui.console import write

    options.has_answered = True
    try:
        write(sys.stdout, text.decode())
    except OSError as error:
        raise Unreachable(
            f"cannot write the metrics to stdout: {error.strerror}", state="nothing was written"
        ) from None


def _write(path: Path, text: bytes) -> None:
    from cellmove.core.files import publish

    try:
        publish(path, text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Unreachable(f"{path} cannot be written: {reason}", state="the old file is unchanged") from None
