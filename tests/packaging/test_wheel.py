"""The built wheel, installed as an operator installs it: by pipx into an environment that holds nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from cellmove import man_pages as docs
from cellmove.ui import schemas
from tests.support.documents import check_document

ROOT = Path(__file__).parents[2]
COMMAND_NAMES = {words[0] for words, _command in docs.commands()}


@dataclass(frozen=True)
class Installation:
    """An installed wheel.

    :param prefix: the environment that pipx made
    :param environment: the variables with which its commands run
    """

    wheel: Path
    prefix: Path
    manual: Path
    environment: dict[str, str]

    def run(self, *words: str, **variables: str) -> str:
        """Run a program with the installed command first on the path; return its standard output."""
        done = subprocess.run(
            words, env=self.environment | variables, capture_output=True, text=True, check=False, cwd=self.prefix
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("wheel")
    # As a release is built: the wheel from the source archive, so that nothing of an earlier build gets into it.
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("CELLMOVE_", "OS_", "PYTHON"))
    }
    environment = inherited | {
        "HOME": str(folder),
        "PIPX_HOME": str(folder / "pipx"),
        "PIPX_BIN_DIR": str(folder / "bin"),
        "PIPX_MAN_DIR": str(folder / "man"),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    subprocess.run([sys.executable, "-m", "pipx", "install", "--quiet", wheel], env=environment, check=True)
    return Installation(wheel, folder / "pipx" / "venvs" / "cellmove", folder / "man", environment)


def test_the_version_is_that_of_the_wheel(installed: Installation) -> None:
    version = installed.wheel.name.split("-")[1]
    assert installed.run("cellmove", "--version") == f"cellmove {version}\n"


def test_every_command_is_there(installed: Installation) -> None:
    for name in sorted(COMMAND_NAMES):
        assert installed.run("cellmove", name, "--help").startswith(f"Usage: cellmove {name} ")


def test_the_journal_needs_no_cloud(installed: Installation) -> None:
    document = json.loads(installed.run("cellmove", "-f", "json", "list"))
    check_document(document, "moves")
    assert document["moves"] == []


def test_the_schemas_and_the_library_for_metrics_are_there(installed: Installation) -> None:
    for name in schemas.COMMANDS:
        assert json.loads(installed.run("cellmove", "schema", name)) == schemas.schema(name)
    assert installed.run("cellmove", "metrics").endswith("# EOF\n")


def test_man_finds_every_page(installed: Installation) -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in (installed.manual / "man1").iterdir()}
    assert pages == docs.man_pages()


def test_the_shells_find_their_completion(installed: Installation) -> None:
    share = installed.prefix / "share"
    places = {
        "cellmove": share / "bash-completion" / "completions",
        "_cellmove": share / "zsh" / "site-functions",
        "cellmove.fish": share / "fish" / "vendor_completions.d",
    }
    assert {name: (place / name).read_text(encoding="utf-8") for name, place in places.items()} == docs.completions()


def test_bash_completes_commands(installed: Installation) -> None:
    script = installed.prefix / "share" / "bash-completion" / "completions" / "cellmove"
    completing = f"""
        source {script}
        COMP_WORDS=(cellmove dr)
        COMP_CWORD=1
        _cellmove_completion cellmove
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert set(installed.run("bash", "-c", completing).split()) == {n for n in COMMAND_NAMES if n.startswith("dr")}


def test_the_wheel_says_that_it_is_typed_and_holds_no_tests(installed: Installation) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = wheel.namelist()
    assert "cellmove/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cellmove"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)
