"""Options of database URLs as other tools write them, against the lab's MariaDB, which requires TLS of every service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import certifi
import pytest
import sqlalchemy

from cellmove.core import database_url
from cellmove.core.errors import CannotConnect
from cellmove.core.login import Login
from cellmove.db import engines
from lab import cloud
from tests.lab.conftest import Cellmove
from tests.scenarios.environment import Server

pytestmark = pytest.mark.lab

TRIPLEO = "read_default_file=FOLDER/tripleo.cnf&read_default_group=tripleo"


@pytest.fixture
def folder(lab_environment: dict[str, str], tmp_path: Path) -> Path:
    """With an options file as TripleO writes it, and one that has nothing about TLS."""
    tls = f"ssl=1\nssl-ca={cloud.layout().ca}\n"
    (tmp_path / "tripleo.cnf").write_text(f"[tripleo]\nbind-address=127.0.0.1\n{tls}\n[client]\n")
    (tmp_path / "my.cnf").write_text(f"[client]\n{tls}")
    return tmp_path


def cipher(lab_environment: dict[str, str], driver: str, options: str) -> str:
    """Log in to the API database as cellmove's own user; return the cipher of the session."""
    login = Login(lab_environment["CELLMOVE_DATABASE_USER"], lab_environment["CELLMOVE_DATABASE_PASSWORD"])
    plain = sqlalchemy.make_url(lab_environment["CELLMOVE_LAB_API_DB"]).set(drivername=driver, query={})
    url = database_url.with_login(f"{plain.render_as_string(hide_password=False)}?{options}", login)
    engine = engines.open_database(url, connect_timeout=5)
    try:
        with engines.translate_errors(engine), engine.connect() as connection:
            return str(connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'").one()[1])
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("mysql+mysqldb", "ssl_mode=VERIFY_CA&ssl_ca=CA"),
        ("mysql+mysqldb", "ssl_mode=VERIFY_IDENTITY&ssl_ca=CA&charset=utf8"),
        ("mysql+mysqldb", "ssl_mode=REQUIRED"),
        ("mysql", "ssl_ca=CA"),
        ("mysql+pymysql", "ssl=true"),
        ("mysql+pymysql", "charset=utf8&ssl_verify_cert=true&ssl_ca=CA"),
        ("mysql+pymysql", TRIPLEO),
        ("mysql+pymysql", f"{TRIPLEO}&plugin=collectd&collectd_program_name=nova&collectd_host=localhost"),
        ("mysql+pymysql", "read_default_file=FOLDER/my.cnf"),
    ],
)
def test_tls_is_spoken_however_the_url_asks_for_it(
    lab_environment: dict[str, str], folder: Path, driver: str, options: str
) -> None:
    written = options.replace("FOLDER", str(folder)).replace("=CA", f"={cloud.layout().ca}")
    assert cipher(lab_environment, driver, written)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ssl_mode=VERIFY_CA", "certificate verify failed"),
        ("ssl_verify_cert=true", "certificate verify failed"),
        ("ssl_ca=OTHER", "certificate verify failed"),
        ("ssl_mode=DISABLED", "Access denied"),
    ],
)
def test_a_server_that_cannot_be_verified_is_refused(lab_environment: dict[str, str], options: str, words: str) -> None:
    with pytest.raises(CannotConnect, match=words):
        cipher(lab_environment, "mysql+mysqldb", options.replace("OTHER", certifi.where()))


def test_connection_parameters_of_nova_conf_hold_for_every_database(
    cellmove: Cellmove, boot: Callable[..., Server], lab_environment: dict[str, str], tmp_path: Path
) -> None:
    server, more = boot("parameters"), tmp_path / "parameters.conf"

    def planned(section: str, options: str, expect: int) -> str:
        more.write_text(f"[{section}]\nconnection_parameters = {options}\n")
        own = {"CELLMOVE_NOVA_CONF": f"{lab_environment['CELLMOVE_NOVA_CONF']}:{more}"}
        return cellmove("plan", server.id, "--dry-run", "--cell", "cell2", expect=expect, env=own).stderr

    ca = cloud.layout().ca
    for section, database in (("api_database", "the API database"), ("database", "the database of ")):
        planned(section, f"read_timeout=25&ssl_ca={ca}", 0)
        said = planned(section, "ssl_cert=/nowhere/cert.pem", 2)
        assert database in said
        assert "ssl_cert=/nowhere/cert.pem: there is no such file on this machine" in said
