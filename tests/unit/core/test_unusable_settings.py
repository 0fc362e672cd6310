"""Whatever is set and cannot be used ends a command with 2 or 4, names the thing and the setting, and shows no secret."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openstack.config import loader
from oslo_config import cfg

from cellmove.cloud import identity
from cellmove.core import database_url, settings, settings_files
from cellmove.core.errors import BadSetting, CellmoveError, JournalUnreachable, Unreachable, Usage
from cellmove.core.settings import Settings
from cellmove.db import cells, engines
from cellmove.engine.journal_open import open_journal
from cellmove.hosts import bus_url
from cellmove.hosts.bus_opener import BusOpener
from cellmove.ui.fault import as_cellmove_error
from tests.support.commands import typed

SECRET = "s3cr3t"
QUICK = Settings(connect_timeout=1)


def ended(call: Callable[[], object], kind: type[CellmoveError], *words: str) -> CellmoveError:
    """How a command ends in which this call fails: as it has to."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which kind comes of it is what is looked at
        call()
    error = as_cellmove_error(caught.value)
    assert type(error) is kind, error.message
    assert error.exit_code == (2 if kind is Usage else 4)
    for text in (error.message, error.state, error.next_command):
        assert SECRET not in text
        assert "fault in cellmove" not in text
        assert "Traceback" not in text
    for word in words:
        assert word in error.message
    return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are not what a setting says they are, and a key with a password."""
    made = tmp_path_factory.mktemp("files")
    (made / "text.pem").write_text("hello\n")
    (made / "text.cnf").write_text(f"password={SECRET}\n")
    (made / "latin1.cnf").write_bytes(b"[client]\nuser=\xe9\n")
    (made / "port.cnf").write_text("[client]\nport=x\n")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", made / "key.pem", "-out", made / "cert.pem", "-days", "9",
         "-subj", "/CN=x", "-passout", "pass:1234"],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


# --- databases ---

HERE = f"mysql+pymysql://nova:{SECRET}@127.0.0.1:1/nova"
LIKE = "mysql+mysqldb://nova:{}@127.0.0.1:1/nova"

UNUSABLE_DATABASES = {
    "": "it is empty",
    "nova": "cannot be parsed",
    "://": "cannot be parsed",
    f"mysql+pymysql://nova:{SECRET}@h:port/nova": "its port has to be a number",
    f"mysql+pymysql://nova:{SECRET}@h:99999/nova": "99999 is no port",
    f"mysql+pymysql://nova:{SECRET}@[::1/nova": "cannot be parsed",
    f"mysql+pymysql://nova:x@{SECRET}@h/nova": "its host is no host name",
    f"mysql+pymysql://nova:x@y?{SECRET}=1@h/nova": "an @ in its query",
    f"mysql+pymysql://nova:{SECRET}@h1,h2/nova": "its host is no host name",
    f"mysql+pymysql://nova:{SECRET}@a..b/nova": "its host is no host name",
    f"mysql+pymysql://nova:{SECRET}@{'a' * 70}/nova": "its host is no host name",
    f"mysql+pymysql://nova:{SECRET}@h": "it names no database",
    f"mysql+pymysql://nova:{SECRET}@/nova": "neither a host nor a unix_socket",
    f"postgresql://nova:{SECRET}@h/nova": "of the kind postgresql are not supported",
    "none:///": "of the kind none are not supported",
    f"{HERE}?nosuch=1": "the option nosuch is not known",
    f"{HERE}?port=1": "the option port is not known",
    f"{HERE}?collectd_host=localhost": "the option collectd_host is not known",
    f"{HERE}?plugin=collectd&charsett=utf8": "the option charsett is not known",
    f"{HERE}?ssl_ca=/nowhere/ca.pem": "ssl_ca=/nowhere/ca.pem: there is no such file on this machine",
    f"{HERE}?ssl_ca=FOLDER/text.pem": "text.pem: no certificate or crl found",
    f"{HERE}?ssl_ca=FOLDER": "ssl_ca=",
    f"{HERE}?ssl_capath=/nowhere": "ssl_capath=/nowhere: there is no such directory",
    f"{HERE}?ssl_cert=/nowhere/c.pem": "ssl_cert=/nowhere/c.pem: there is no such file",
    f"{HERE}?ssl_cert=FOLDER/cert.pem&ssl_key=/nowhere/k.pem": "ssl_key=/nowhere/k.pem: there is no such file",
    f"{HERE}?ssl_cert=FOLDER/cert.pem&ssl_key=FOLDER/text.pem": "ssl_cert=",
    f"{HERE}?ssl_cert=FOLDER/cert.pem&ssl_key=FOLDER/key.pem": "ssl_cert=",  # no password is asked for
    f"{HERE}?ssl_cipher=nosuch": "ssl_cipher=nosuch: there is no such cipher",
    f"{HERE}?ssl=maybe": "ssl=maybe is neither true nor false",
    f"{HERE}?ssl_check_hostname=perhaps": "ssl_check_hostname=perhaps is neither true nor false",
    f"{LIKE.format(SECRET)}?ssl_mode=SOMETIMES": "ssl_mode=SOMETIMES is none of DISABLED, PREFERRED",
    f"{HERE}?charset=nosuch": "charset=nosuch: there is no such character set",
    f"{HERE}?charset=utf8&charset=latin1": "the option charset is given 2 times",
    f"{HERE}?connect_timeout=soon": "connect_timeout=soon is no number",
    f"{HERE}?read_timeout=-1": "read_timeout=-1 is no number",
    f"{HERE}?write_timeout=0": "write_timeout=0 has to be a number of seconds above 0",
    f"{HERE}?client_flag=x": "client_flag=x is no number",
    f"{HERE}?local_infile=x": "local_infile=x is neither true nor false",
    f"{HERE}?read_default_file=/nowhere/my.cnf": "read_default_file=/nowhere/my.cnf: there is no such file",
    f"{HERE}?read_default_file=FOLDER/text.cnf": "text.cnf: line 1 is not of the form",
    f"{HERE}?read_default_file=FOLDER/latin1.cnf": "latin1.cnf: it is not text",
    f"{HERE}?read_default_file=FOLDER/port.cnf": "port=x is no number",
    f"{HERE}?read_default_file=~no-such-user/my.cnf": "read_default_file=",
    "sqlite:////somewhere.db?timeout=x": "timeout=x is no number",
}  # fmt: skip

SETTING = "cell_mappings.database_connection of cell7"


@pytest.mark.parametrize("url", UNUSABLE_DATABASES)
def test_a_database_url_that_cannot_be_used(folder: Path, url: str) -> None:
    said = UNUSABLE_DATABASES[url]
    url = url.replace("FOLDER", str(folder))

    def probe() -> None:
        engines.open_database(url, connect_timeout=1, name="the database of cell7", setting=SETTING)

    ended(probe, Usage, "the database of cell7: the URL in ", SETTING, said)
    if url.startswith("mysql"):
        ended(
            lambda: open_journal(url, lambda: "now"),
            Usage,
            "the journal's URL (--journal, CELLMOVE_JOURNAL, journal)",
            said,
        )


SILENT_DATABASES = (
    HERE,
    f"mysql+nosuch://nova:{SECRET}@127.0.0.1:1/nova",
    f"mysql+pymysql://nova:{SECRET}@nowhere.invalid/nova",
    f"mysql+pymysql://nova:{SECRET}@[::1]:1/nova",
    f"mysql+pymysql://nova:{SECRET}%E2%82%AC@127.0.0.1:1/nova",
    f"{HERE}?unix_socket=/nowhere/mysql.sock",
    f"{HERE}?bind_address=nowhere.invalid",
    f"{HERE}?plugin=dbcounter&compress=1&auth_plugin=x&use_pure=1",
    f"{HERE}?plugin=collectd&collectd_program_name=nova&collectd_host=localhost",
    f"{HERE}?ssl=true&charset=utf8mb3",
    f"{LIKE.format(SECRET)}?ssl_mode=VERIFY_CA",
    "sqlite:////nowhere/at/all.db",
)


@pytest.mark.parametrize("url", SILENT_DATABASES)
def test_a_database_that_does_not_answer(url: str) -> None:
    def probe() -> None:
        engines.probe_database(
            engines.open_database(url, connect_timeout=1, name="the database of cell7", setting=SETTING)
        )

    ended(probe, Unreachable, "the database of cell7: ")


# --- what PyMySQL is given about TLS: verified, with the host's name, or neither ---


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", None),
        ("ssl=0", None),
        ("ssl=false", None),
        ("ssl_mode=PREFERRED", None),
        ("ssl_mode=DISABLED", "disabled"),
        ("ssl_mode=DISABLED&ssl_ca=/nowhere", "disabled"),
        ("ssl_disabled=true", "disabled"),
        ("ssl=true", (False, False)),
        ("ssl=1", (False, False)),
        ("ssl_mode=REQUIRED", (False, False)),
        ("ssl_mode=required", (False, False)),
        ("ssl_mode=VERIFY_CA", (True, False)),
        ("ssl_mode=VERIFY_IDENTITY", (True, True)),
        ("ssl_verify_cert=true", (True, False)),
        ("ssl_verify_identity=true", (True, True)),
        ("ssl_ca=CA", (True, True)),
        ("ssl_ca=CA&ssl_check_hostname=false", (True, False)),
        ("ssl_ca=CA&ssl_verify_cert=false", (False, False)),
        ("ssl_ca=CA&ssl_verify_cert=true", (True, False)),
        ("ssl_ca=CA&ssl_mode=REQUIRED", (True, False)),
        ("ssl_ca=CA&ssl_mode=VERIFY_CA", (True, False)),
        ("ssl_ca=CA&ssl_mode=VERIFY_IDENTITY", (True, True)),
        ("read_default_file=CNF", (True, True)),
        ("read_default_file=CNF&read_default_group=other", None),
        ("read_default_file=CNF&ssl_mode=VERIFY_CA", (True, False)),
    ],
)
def test_options_about_tls_mean_what_they_mean_to_mysql_s_own_clients(
    folder: Path, options: str, expected: str | tuple[bool, bool] | None
) -> None:
    (folder / "tls.cnf").write_text(f"[client]\nssl-ca={folder}/cert.pem\n[other]\n")
    text = (
        options.replace("CA&", f"{folder}/cert.pem&")
        .replace("=CA", f"={folder}/cert.pem")
        .replace("CNF", f"{folder}/tls.cnf")
    )
    found = database_url.parse(f"{HERE}?{text}").options
    if expected == "disabled":
        assert found["ssl_disabled"] is True
        return
    context = found.get("ssl")
    assert (context is None) == (expected is None)
    if context is not None:
        assert (context.verify_mode.value == 2, context.check_hostname) == expected  # type: ignore[attr-defined]


def test_mysqlclient_verifies_no_host_name_unless_asked(folder: Path) -> None:
    context = database_url.parse(f"{LIKE.format('p')}?ssl_ca={folder}/cert.pem").options["ssl"]
    assert (context.verify_mode.value, context.check_hostname) == (2, False)  # type: ignore[attr-defined]


def test_a_password_beyond_latin_1_goes_out_as_mysqlclient_sends_it() -> None:
    assert database_url.parse(f"mysql://u:{quote('pä€')}@h/d").options["password"] == "pä€".encode()
    assert "password" not in database_url.parse(f"mysql://u:{quote('pä')}@h/d").options


# --- buses ---

AT = f"rabbit://nova:{SECRET}@127.0.0.1:1/"

UNUSABLE_BUSES = {
    "": "cannot be parsed",
    "rabbit": "cannot be parsed",
    "none:///": "buses of the kind none:// are not supported",
    "amqp://": "buses of the kind amqp:// are not supported",
    f"kafka://u:{SECRET}@h:1/": "kafka:// are not supported",
    "fake://": "fake:// are not supported",
    f"http://u:{SECRET}@h/": "http:// are not supported",
    f"rabbit+tls://u:{SECRET}@h/": "rabbit+tls:// are not supported",
    "rabbit://": "it names no broker",
    "rabbit:///vhost": "it names no broker",
    f"rabbit://nova:{SECRET}@h:port/": "its port has to be a number",
    f"rabbit://nova:{SECRET}@h:99999/": "99999 is no port of its broker",
    f"rabbit://nova:{SECRET}@h:-1/": "-1 is no port of its broker",
    f"rabbit://nova:{SECRET}@h1:1,nova:{SECRET}@h2:0/": "0 is no port of its broker number 2",
    f"rabbit://nova:{SECRET}@[::1/": "cannot be parsed",
    f"rabbit://nova:{SECRET}@:5672/": "the host of its broker is no host name",
    f"rabbit://nova:{SECRET}@a..b:5672/": "the host of its broker is no host name",
    f"rabbit://nova:{SECRET}@None:None/": "cannot be parsed",
    f"rabbit://nova:a/{SECRET}@h:5672/": "/ : @ # ? % , have to be written %2F",
    f"rabbit://nova:1/{SECRET}@h:5672/": "have to be written",
    f"rabbit://nova:1?{SECRET}=1@h:5672/": "have to be written",
    f"rabbit://nova:1#{SECRET}@h:5672/": "have to be written",
    "rabbit://{username1}:{password1}@{hostname1}:{port1}/": "cannot be parsed",
    f"{AT}?nosuch=1": "the option nosuch is not known",
    f"{AT}?ssl=maybe": "ssl=maybe in its query",
    f"{AT}?heartbeat_timeout_threshold=x": "heartbeat_timeout_threshold=x in its query",
    f"{AT}?rabbit_login_method=zz": "rabbit_login_method=zz in its query",
    f"{AT}?ssl=1&ssl_version=TLSv9": "ssl_version=TLSv9 is none of",
    f"{AT}?ssl=1&ssl_ca_file=/nowhere/ca.pem": "ssl_ca_file=/nowhere/ca.pem: there is no such file on this machine",
    f"{AT}?ssl=1&ssl_ca_file=FOLDER/text.pem": "no certificate or crl found",
    f"{AT}?ssl=1&ssl_cert_file=/nowhere/c.pem": "ssl_cert_file=/nowhere/c.pem: there is no such file",
    f"{AT}?ssl=1&ssl_cert_file=FOLDER/cert.pem&ssl_key_file=/nowhere": "ssl_key_file=/nowhere: there is no such file",
    f"{AT}?ssl=1&ssl_cert_file=FOLDER/cert.pem&ssl_key_file=FOLDER/key.pem": "ssl_cert_file=",
}  # fmt: skip

BUS_SETTING = "cell_mappings.transport_url of cell7"


@pytest.mark.parametrize("url", UNUSABLE_BUSES)
def test_a_bus_url_that_cannot_be_used(folder: Path, url: str) -> None:
    made = url.replace("FOLDER", str(folder))
    ended(
        lambda: BusOpener(QUICK).open(made, "cell7", setting=BUS_SETTING),
        Usage, "the message bus of cell7: the URL in ", BUS_SETTING, UNUSABLE_BUSES[url],
    )  # fmt: skip


SILENT_BUSES = (
    AT,
    f"kombu://nova:{SECRET}@127.0.0.1:1/",
    f"rabbit://nova:{SECRET}@[::1]:1/",
    f"rabbit://nova:{SECRET}@127.0.0.1:1,nova:{SECRET}@127.0.0.1:2/",
    f"rabbit://nova:{SECRET}@nowhere.invalid/",
    f"rabbit://nova:{quote('/:@#?%,' + SECRET, safe='')}@127.0.0.1:1//v?ssl=0",
    f"sandbox://nova:{SECRET}@127.0.0.1:1/",
    "sandbox://",
)


@pytest.mark.parametrize("url", SILENT_BUSES)
def test_a_bus_that_does_not_answer(url: str) -> None:
    ended(
        lambda: BusOpener(QUICK).open(url, "cell7", setting=BUS_SETTING),
        Unreachable,
        "message bus of cell7 cannot be reached",
    )


UNUSABLE_OPTIONS = {
    "ssl = maybe": "[oslo_messaging_rabbit]ssl of nova.conf has a value that cannot be used: Unexpected boolean value 'maybe'",
    "heartbeat_rate = x": "[oslo_messaging_rabbit]heartbeat_rate of nova.conf",
    "rabbit_transient_quorum_queue = x": "[oslo_messaging_rabbit]rabbit_transient_quorum_queue of nova.conf",
    "heartbeat_timeout_threshold = 1m": "[oslo_messaging_rabbit]heartbeat_timeout_threshold of nova.conf",
    "kombu_reconnect_delay = $nosuch": "[oslo_messaging_rabbit]kombu_reconnect_delay of nova.conf",
    "kombu_reconnect_delay = x": "[oslo_messaging_rabbit]kombu_reconnect_delay of nova.conf",
    "kombu_reconnect_delay = 1e9": "[oslo_messaging_rabbit]kombu_reconnect_delay of nova.conf",
    "kombu_missing_consumer_retry_timeout = x": "[oslo_messaging_rabbit]kombu_missing_consumer_retry_timeout of nova.conf",
    "kombu_failover_strategy = any": "[oslo_messaging_rabbit]kombu_failover_strategy of nova.conf",
    "rabbit_login_method = zz": "[oslo_messaging_rabbit]rabbit_login_method of nova.conf",
    "rabbit_retry_interval = x": "[oslo_messaging_rabbit]rabbit_retry_interval of nova.conf",
    "rabbit_retry_backoff = ''x''": "[oslo_messaging_rabbit]rabbit_retry_backoff of nova.conf",
    "rabbit_interval_max = soon": "[oslo_messaging_rabbit]rabbit_interval_max of nova.conf",
    "rabbit_ha_queues = perhaps": "[oslo_messaging_rabbit]rabbit_ha_queues of nova.conf",
    "rabbit_quorum_queue = 2": "[oslo_messaging_rabbit]rabbit_quorum_queue of nova.conf",
    "rabbit_quorum_delivery_limit = x": "[oslo_messaging_rabbit]rabbit_quorum_delivery_limit of nova.conf",
    "rabbit_transient_queues_ttl = -1": "[oslo_messaging_rabbit]rabbit_transient_queues_ttl of nova.conf",
    "rabbit_qos_prefetch_count = x": "[oslo_messaging_rabbit]rabbit_qos_prefetch_count of nova.conf",
    "amqp_durable_queues = x": "[oslo_messaging_rabbit]amqp_durable_queues of nova.conf",
    "amqp_auto_delete = x": "[oslo_messaging_rabbit]amqp_auto_delete of nova.conf",
    "direct_mandatory_flag = x": "[oslo_messaging_rabbit]direct_mandatory_flag of nova.conf",
    "ssl = true\nssl_ca_file = /nowhere/ca.pem": "[oslo_messaging_rabbit]ssl_ca_file=/nowhere/ca.pem: there is no such file",
    "ssl = true\nssl_ca_file = FOLDER/text.pem": "text.pem: no certificate or crl found",
    "ssl = true\nssl_version = TLSv9": "[oslo_messaging_rabbit]ssl_version=TLSv9",
    "ssl = true\nssl_cert_file = /nowhere/c.pem": "[oslo_messaging_rabbit]ssl_cert_file=/nowhere/c.pem",
    "ssl = true\nssl_cert_file = FOLDER/cert.pem\nssl_key_file = /nowhere": "[oslo_messaging_rabbit]ssl_key_file=/nowhere",
    "ssl = true\nssl_cert_file = FOLDER/cert.pem\nssl_key_file = FOLDER/key.pem": "or the key needs a password",
}  # fmt: skip


@pytest.mark.parametrize("options", UNUSABLE_OPTIONS)
def test_options_of_nova_conf_that_oslo_messaging_does_not_take(tmp_path: Path, folder: Path, options: str) -> None:
    conf = cfg.ConfigOpts()
    path = tmp_path / "nova.conf"
    path.write_text(f"[oslo_messaging_rabbit]\n{options.replace('FOLDER', str(folder))}\n")
    conf([], default_config_files=[str(path)])
    with pytest.raises(BadSetting) as caught:
        bus_url.check(conf, AT)
    assert UNUSABLE_OPTIONS[options] in str(caught.value)


def test_a_nova_conf_that_oslo_config_refuses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nova.conf"
    path.write_text(f"[DEFAULT]\nno assignment {SECRET}\n")
    broken = Settings(nova_conf=(path,), connect_timeout=1)
    ended(lambda: BusOpener(broken).open(AT, "cell7"), Usage, str(path), "line 2")


# --- fuzz: templates as nova has them, several brokers, IPv6, any password ---

anything = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
hosts = st.one_of(st.sampled_from(["h", "[::1]", "127.0.0.1", "", "a..b", "{hostname}"]), anything)
ports = st.one_of(st.integers(-1, 70000).map(str), st.sampled_from(["", "None", "{port}", "x"]))
TEMPLATE = "{scheme}://{username}:{password}@{hostname}:{port}/{path}?{query}"
templates = st.one_of(
    st.just(TEMPLATE),
    anything,
    st.lists(st.sampled_from(["{username1}", "{hostname2}", "{port}", "{", "}", "{0}", "://", "@"])).map("".join),
)


@st.composite
def urls(draw: st.DrawFn, scheme: str) -> str:
    """URLs whose parts are right, encoded, or anything."""
    encode = draw(st.booleans())
    brokers = []
    for _number in range(draw(st.integers(1, 3))):
        login = draw(anything)
        brokers.append(f"nova:{quote(login, safe='') if encode else login}{SECRET}@{draw(hosts)}:{draw(ports)}")
    return f"{scheme}://{','.join(brokers)}/{draw(anything)}?{draw(anything)}"


@hypothesis_settings(max_examples=300, deadline=None)
@given(urls("mysql+pymysql"))
def test_any_database_url_parses_or_is_refused_without_its_password(url: str) -> None:
    try:
        database_url.parse(url)
    except BadSetting as error:
        assert SECRET not in str(error)  # noqa: PT017


@hypothesis_settings(max_examples=300, deadline=None)
@given(urls("rabbit"))
def test_any_bus_url_is_fine_or_is_refused_without_its_password(url: str) -> None:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    try:
        bus_url.check(conf, url)
    except BadSetting as error:
        assert SECRET not in str(error)  # noqa: PT017


@hypothesis_settings(max_examples=300, deadline=None)
@given(templates, st.one_of(urls("rabbit"), anything))
def test_any_template_is_filled_in_or_its_problem_is_said(template: str, default: str) -> None:
    found = cells.resolve_url(template, default)
    problem = cells.problem_of(template, default, "[DEFAULT]transport_url")
    assert SECRET not in problem
    if template == TEMPLATE and found == template:
        assert problem


# --- the journal ---

UNUSABLE_JOURNALS: dict[str, tuple[type[CellmoveError], str]] = {
    "": (Usage, "the journal's path (--journal, CELLMOVE_JOURNAL, journal) names no file: ''"),
    " ": (Usage, "names no file: ' '"),
    ":memory:": (Usage, "names no file: ':memory:'"),
    "x\0y": (Usage, "the journal's path"),
    "\ud800": (Usage, "the journal's path (--journal, CELLMOVE_JOURNAL, journal) has characters of no file name"),
    "sqlite://": (Usage, "names no file"),
    "sqlite:///:memory:": (Usage, "names no file"),
    "sqlite:////nowhere.db?timeout=x": (Usage, "timeout=x is no number"),
    "://": (Usage, "cannot be parsed"),
    "a://": (Usage, "of the kind a are not supported"),
    f"http://x:{SECRET}@y/": (Usage, "of the kind http are not supported"),
    f"postgresql://x:{SECRET}@y/d": (Usage, "of the kind postgresql are not supported"),
    HERE: (Unreachable, "the journal mysql+pymysql://nova:***@127.0.0.1:1/nova cannot be opened"),
    f"{HERE}?ssl=true": (Unreachable, "cannot be opened"),
    f"{LIKE.format(SECRET)}?ssl_mode=REQUIRED&ssl_key_password={SECRET}": (Unreachable, "cannot be opened"),
    ".": (Unreachable, "the journal . cannot be opened for writing: Is a directory"),
    "/dev/null": (Unreachable, "the journal /dev/null cannot be opened for writing: it is no ordinary file"),
    "/dev/null/journal.db": (Unreachable, "the journal /dev/null/journal.db cannot be opened for writing: Not a directory"),
    "/proc/nowhere/journal.db": (Unreachable, "the journal /proc/nowhere/journal.db cannot be opened"),
    "sqlite:////dev/null/journal.db": (Unreachable, "the journal /dev/null/journal.db cannot be opened"),
    "x" * 5000: (Unreachable, "cannot be opened"),
    "FOLDER/loop": (Unreachable, "Too many levels of symbolic links"),
    "FOLDER/dangling": (Unreachable, "it is a symbolic link to /nowhere/journal.db, which is not there"),
    "FOLDER/pipe": (Unreachable, "it is no ordinary file"),
}  # fmt: skip

DAMAGED_JOURNALS: dict[str, tuple[str | bytes, str]] = {
    "empty": (b"", "it is empty: it was truncated"),
    "text": (f"password={SECRET}\n" * 99, "file is not a database"),
    "cut": (b"SQLite format 3\0", "file is not a database"),
    "other": ("CREATE TABLE x (a)", "it does not say its version"),
    "column": ("CREATE TABLE about (a)", "no such column: about.schema_version"),
    "row": ("CREATE TABLE about (schema_version)", "it does not say its version"),
    "null": ("CREATE TABLE about (schema_version); INSERT INTO about VALUES (NULL)", "it does not say its version"),
    "word": ("CREATE TABLE about (schema_version); INSERT INTO about VALUES ('x')", "it is no journal (ValueError)"),
    "below": ("CREATE TABLE about (schema_version); INSERT INTO about VALUES (-1)", "it is no journal (NoSuchTableError)"),
    "alone": ("CREATE TABLE about (schema_version); INSERT INTO about VALUES (1)", "it is no journal (NoSuchTableError)"),
}  # fmt: skip


@pytest.mark.parametrize("where", UNUSABLE_JOURNALS)
def test_a_journal_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to("/nowhere/journal.db")
    os.mkfifo(tmp_path / "pipe")
    kind, said = UNUSABLE_JOURNALS[where]
    error = ended(lambda: open_journal(where.replace("FOLDER", str(tmp_path)), lambda: "now"), kind, said)
    assert not error.next_command.startswith("mv ")  # nothing of it is a journal that is to be put aside
    assert {path.name for path in tmp_path.iterdir()} == {"loop", "dangling", "pipe"}


@pytest.mark.parametrize("only_reads", [False, True])
@pytest.mark.parametrize("name", DAMAGED_JOURNALS)
def test_a_file_that_is_no_journal(tmp_path: Path, name: str, only_reads: bool) -> None:
    content, said = DAMAGED_JOURNALS[name]
    path = tmp_path / "a journal.db"
    if isinstance(content, bytes) or not content.startswith("CREATE"):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(content)
    before = path.read_bytes()
    error = ended(lambda: open_journal(str(path), lambda: "now", only_reads=only_reads), JournalUnreachable, said)
    assert error.next_command == f"mv '{path}' '{path}.damaged' && cellmove adopt SERVER"
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", [".", "/dev/null", "/dev/null/journal.db", "FOLDER/loop", "FOLDER/pipe"])
def test_a_command_that_only_reads_takes_no_device_or_directory_for_an_empty_journal(
    tmp_path: Path, where: str
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    made = where.replace("FOLDER", str(tmp_path))
    ended(
        lambda: open_journal(made, lambda: "now", only_reads=True), Unreachable, f"the journal {made} cannot be read: "
    )


# --- config.toml, nova.conf and the environment ---

UNUSABLE_TOML = {
    "a = ": "is not valid TOML",
    "a=1\na=2": "is not valid TOML",
    "\0": "is not valid TOML",
    "x = 1": "unknown key 'x'",
    "nova_cnf = 'x'": "did you mean 'nova_conf'",
    "nova_conf = [1]": "nova_conf",
    "nova_conf = ['/nowhere']": "/nowhere does not exist",
    "nova_conf = '~no-such-user/x'": "nova_conf",
    'nova_conf = "x\\u0000y"': "nova_conf",
    "journal = '~no-such-user/x'": "journal",
    "journal = \"x\\u0000y\"": "journal",
    "connect_timeout = nan": "connect_timeout",
    "connect_timeout = inf": "connect_timeout",
    "connect_timeout = 1e400": "connect_timeout",
    "connect_timeout = 0": "connect_timeout",
    "connect_timeout = 'x'": "connect_timeout",
    "long_rpc_timeout = true": "long_rpc_timeout",
    "rpc_response_timeout = 1e20": "rpc_response_timeout",
    "api_database = 5": "api_database",
    "disk_stores = {a = 1}": "disk_stores",
    "disk_stores = {'a b' = ['x']}": "disk_stores",
    "transfer = 'x'": "transfer",
    "bwlimit = 'x'": "bwlimit",
    "ssh = [1]": "ssh",
    "ssh = {config = 1}": "ssh.config",
    "ssh = {config = '/nowhere/config'}": "ssh.config=/nowhere/config: there is no such file on this machine",
    "ssh = {config = '~no-such-user/x'}": "ssh.config",
    "ssh = {become = [1]}": "ssh.become",
    "ssh = {python = ''}": "python has to name",
    "ssh = {hosts = {a = 1}}": "ssh.hosts",
    "ssh = {hosts = {a = {port = -1}}}": "-1 is no port",
    "ssh = {instances_path = 'x'}": "instances_path",
    "policy = 1": "policy",
    "policy = {unattended = 'x'}": "policy.unattended",
    "policy = {moves_a_day = -1}": "policy.moves_a_day",
    "policy = {allow = {projects = [1]}}": "policy.allow.projects",
    "hooks = 'x'": "hooks",
    "hooks = {before_move = 'x'}": "hooks.before_move",
    "hooks = {after_move = ['']}": "hooks.after_move",
    "hooks = {on_failure = 1}": "hooks.on_failure",
    "hooks = {timeout = nan}": "hooks.timeout",
}  # fmt: skip


@pytest.mark.parametrize("text", UNUSABLE_TOML)
def test_a_config_toml_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(settings_files, "DEFAULT_NOVA_CONF", ())
    path = tmp_path / "config.toml"
    path.write_text(text)
    environ = {"HOME": str(tmp_path), "CELLMOVE_CONFIG": str(path)}
    ended(lambda: settings.load({}, environ), Usage, UNUSABLE_TOML[text])


UNUSABLE_NOVA_CONF = {
    b"x": "line 1", b"[DEFAULT": "line 1", b"[DEFAULT]\nx": "line 2", b"a=1": "line 1", b"[]\na=1": "line 1", b"\0": "line 1",
    b"[DEFAULT]\n  x": "line 2", b"[DEFAULT]\n=5": "line 2", b"[a]b=1": "line 1", b"\xff": "is not UTF-8 text",
    b"[DEFAULT]\nno assignment s3cr3t": "line 2",
    b"[DEFAULT]\nrpc_response_timeout=s": "rpc_response_timeout",
    b"[DEFAULT]\nrpc_response_timeout=nan": "rpc_response_timeout",
    b"[DEFAULT]\nrpc_response_timeout=1800 # x": "rpc_response_timeout",
    b"[DEFAULT]\nlong_rpc_timeout=-1": "long_rpc_timeout",
    b"[DEFAULT]\nservice_down_time=inf": "service_down_time",
    b"[DEFAULT]\ntransport_url=$nosuch": "[DEFAULT]transport_url refers to an option that is not set",
    b"[DEFAULT]\ntransport_url=$transport_url": "[DEFAULT]transport_url refers to an option that is not set",
    b"[DEFAULT]\nrpc_response_timeout=$a\na=$b\nb=$a": "[DEFAULT]rpc_response_timeout",
    b"[DEFAULT]\ntransport_url=${a.b.c}": "[DEFAULT]transport_url refers to an option that is not set",
    b"[notifications]\nnotification_format=short": "[notifications]notification_format",
}  # fmt: skip


@pytest.mark.parametrize("text", UNUSABLE_NOVA_CONF)
def test_a_nova_conf_that_cannot_be_used(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "nova.conf"
    path.write_bytes(text)
    ended(lambda: settings.load({"nova_conf": str(path)}, {"HOME": str(tmp_path)}), Usage, UNUSABLE_NOVA_CONF[text])


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CELLMOVE_CONFIG", "/nowhere/config.toml"),
        ("CELLMOVE_CONFIG", "/"),
        ("CELLMOVE_CONFIG", "~no-such-user/x"),
        ("CELLMOVE_CONFIG", "x\0y"),
        ("XDG_CONFIG_HOME", "x\0y"),
        ("CELLMOVE_NOVA_CONF", "/nowhere/nova.conf"),
        ("CELLMOVE_NOVA_CONF", "~no-such-user/x"),
        ("CELLMOVE_JOURNAL", "~no-such-user/x"),
        ("CELLMOVE_CONNECT_TIMEOUT", "nan"),
        ("CELLMOVE_CONNECT_TIMEOUT", "soon"),
        ("CELLMOVE_BWLIMIT", "fast"),
        ("CELLMOVE_TRANSFER", "carrier pigeon"),
        ("CELLMOVE_DISK_STORES", "some"),
        ("CELLMOVE_DISK_STORES", "separate,shared"),
        ("CELLMOVE_CONFIG", "/dev/null/config.toml"),
        ("CELLMOVE_NOVA_CONF", "/dev/null/nova.conf"),
        ("CELLMOVE_NOVA_CONF", "x\0y"),
        ("CELLMOVE_JOURNAL", "x\0y"),
        ("CELLMOVE_CONNECT_TIMEOUT", "0"),
        ("CELLMOVE_CONNECT_TIMEOUT", "-5"),
        ("CELLMOVE_CONNECT_TIMEOUT", "1e400"),
        ("CELLMOVE_BWLIMIT", "-1"),
        ("CELLMOVE_BWLIMIT", "0"),
    ],
)
def test_a_variable_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setattr(settings_files, "DEFAULT_NOVA_CONF", ())
    ended(lambda: settings.load({}, {"HOME": str(tmp_path), variable: value}), Usage)


# --- credentials ---

AUTH = f"auth_url: 'http://127.0.0.1:1/v3', username: a, password: {SECRET}, project_name: p, user_domain_id: d, project_domain_id: d"
TLS = AUTH.replace("http:", "https:")

UNUSABLE_CLOUDS = {
    "": "clouds.yaml: it has to hold clouds:",
    "- a\n": "clouds.yaml: it has to hold clouds:",
    "clouds: [lab]\n": "clouds.yaml: it has to hold clouds:",
    "clouds:\n  lab:\n    auth: {\n": "clouds.yaml, line 4: ",
    "clouds:\n\tlab: {}\n": "clouds.yaml, line 2: found character",
    f"clouds:\n  lab:\n    auth:\n      password: *{SECRET}\n": "clouds.yaml, line 4: found undefined alias",
    f"clouds:\n  lab:\n    auth:\n      password: '{SECRET}\n": "clouds.yaml, line ",
    f"clouds:\n  lab: {{x: 2026-99-99, password: {SECRET}}}\n": "clouds.yaml holds a value that YAML does not allow",
    f"clouds:\n  other: {{auth: {{{AUTH}}}}}\n": "clouds.yaml has no cloud lab; it has: other",
    "clouds: {}\n": "clouds.yaml has no cloud lab; it has: none",
    "clouds:\n  lab:\n": "clouds.yaml: clouds.lab has to hold settings",
    "clouds:\n  lab: hello\n": "clouds.yaml: clouds.lab has to hold settings",
    "clouds:\n  lab: {auth: hello}\n": "clouds.yaml: clouds.lab.auth has to hold settings",
    f"clouds:\n  lab: {{auth: {{username: a, password: {SECRET}, project_name: p}}}}\n": "auth_url",
    "clouds:\n  lab: {auth: {auth_url: 5}}\n": "clouds.lab.auth.auth_url has to begin with http",
    f"clouds:\n  lab: {{auth: {{{AUTH.replace('http://127.0.0.1:1/v3', 'nonsense')}}}}}\n": "clouds.lab.auth.auth_url has to begin",
    f"clouds:\n  lab: {{auth: {{{AUTH.replace(':1/v3', ':x/v3')}}}}}\n": "the port of auth_url has to be a number",
    f"clouds:\n  lab: {{auth: {{{AUTH.replace(f'password: {SECRET}, ', '')}}}}}\n": "password",
    f"clouds:\n  lab: {{auth: {{{AUTH}, usrname: a}}}}\n": "usrname",
    f"clouds:\n  lab: {{auth_type: nosuch, auth: {{{AUTH}}}}}\n": "nosuch",
    "clouds:\n  lab: {auth_type: token, auth: {auth_url: 'http://127.0.0.1:1/v3'}}\n": "token",
    "clouds:\n  lab: {auth_type: v3applicationcredential, auth: {auth_url: 'http://127.0.0.1:1/v3', application_credential_id: x}}\n": "secret",
    f"clouds:\n  lab: {{interface: [1], auth: {{{AUTH}}}}}\n": "interface",
    f"clouds:\n  lab: {{cacert: /nowhere/ca.pem, auth: {{{TLS}}}}}\n": "cacert=/nowhere/ca.pem: there is no such file on this machine",
    f"clouds:\n  lab: {{cacert: FOLDER/text.pem, auth: {{{TLS}}}}}\n": "no certificate or crl found",
    f"clouds:\n  lab: {{verify: perhaps, auth: {{{TLS}}}}}\n": "perhaps: there is no such file",
    f"clouds:\n  lab: {{cert: /nowhere/c.pem, key: /nowhere/k.pem, auth: {{{TLS}}}}}\n": "cert=/nowhere/c.pem: there is no such file",
    f"clouds:\n  lab: {{cert: FOLDER/cert.pem, key: /nowhere/k.pem, auth: {{{TLS}}}}}\n": "key=/nowhere/k.pem: there is no such file",
    f"clouds:\n  lab: {{cert: FOLDER/cert.pem, key: FOLDER/key.pem, auth: {{{TLS}}}}}\n": "cert=",
}  # fmt: skip


@pytest.fixture
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without a clouds.yaml, and no variables."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    # openstacksdk made these lists when it was imported, of the working directory at that time.
    for name in ("CONFIG_FILES", "SECURE_FILES", "VENDOR_FILES"):
        monkeypatch.setattr(loader, name, [])
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    return tmp_path


def log_in(found: Settings) -> None:
    identity.probe(identity.connect(found))


@pytest.mark.parametrize("text", UNUSABLE_CLOUDS)
def test_a_clouds_yaml_that_cannot_be_used(lonely: Path, folder: Path, text: str) -> None:
    (lonely / "clouds.yaml").write_text(text.replace("FOLDER", str(folder)))
    ended(
        lambda: log_in(Settings(os_cloud="lab", connect_timeout=1)),
        Usage, "the operator's credential (--os-cloud, OS_CLOUD)", UNUSABLE_CLOUDS[text],
    )  # fmt: skip


def test_a_clouds_yaml_that_cannot_be_read_or_is_not_there(lonely: Path) -> None:
    lab = Settings(os_cloud="lab", connect_timeout=1)
    ended(lambda: log_in(lab), Usage, "clouds.yaml, named by OS_CLIENT_CONFIG_FILE, does not exist")
    (lonely / "clouds.yaml").write_bytes(b"clouds: {lab: \xe9}\n")
    ended(lambda: log_in(lab), Usage, "clouds.yaml is not UTF-8 text")
    (lonely / "clouds.yaml").unlink()
    (lonely / "clouds.yaml").mkdir()
    ended(lambda: log_in(lab), Usage, "clouds.yaml cannot be read: Is a directory")


def test_a_keystone_that_does_not_answer(lonely: Path) -> None:
    (lonely / "clouds.yaml").write_text(f"clouds:\n  lab: {{auth: {{{AUTH}}}}}\n")
    ended(
        lambda: log_in(Settings(os_cloud="lab", connect_timeout=1)),
        Unreachable,
        "keystone, with the operator's credential",
    )


VARIABLES = {
    "OS_AUTH_URL": "http://127.0.0.1:1/v3", "OS_USERNAME": "a", "OS_PASSWORD": SECRET, "OS_PROJECT_NAME": "p",
    "OS_USER_DOMAIN_ID": "d", "OS_PROJECT_DOMAIN_ID": "d",
}  # fmt: skip


HTTPS = "https://127.0.0.1:1/v3"

UNUSABLE_LOGINS: tuple[tuple[dict[str, str], str], ...] = (
    (dict.fromkeys(VARIABLES, ""), "auth_url; name a cloud of clouds.yaml, or set the OS_* variables"),
    ({"OS_AUTH_URL": ""}, "auth_url"),
    ({"OS_AUTH_URL": "nonsense"}, "auth_url has to begin with http"),
    ({"OS_AUTH_URL": "ftp://127.0.0.1/v3"}, "auth_url has to begin with http"),
    ({"OS_AUTH_URL": " http://127.0.0.1:1/v3"}, "auth_url has to begin with http"),
    ({"OS_AUTH_URL": "http://"}, "auth_url names no host"),
    ({"OS_AUTH_URL": "http:///v3"}, "auth_url names no host"),
    ({"OS_AUTH_URL": f"http://u:{SECRET}@127.0.0.1:x/v3"}, "the port of auth_url has to be a number"),
    ({"OS_AUTH_URL": "http://127.0.0.1:99999/v3"}, "the port of auth_url has to be a number between 1 and 65535"),
    ({"OS_AUTH_URL": "http://127.0.0.1:0/v3"}, "the port of auth_url has to be a number between 1 and 65535"),
    ({"OS_AUTH_URL": f"http://u:{SECRET}@[::1/v3"}, "auth_url cannot be parsed"),
    ({"OS_AUTH_URL": f"http://u:{SECRET}@a..b/v3"}, "the host of auth_url is no host name"),
    ({"OS_AUTH_URL": f"http://{'a' * 70}/v3"}, "the host of auth_url is no host name"),
    ({"OS_AUTH_URL": "http://ho st/v3"}, "the host of auth_url is no host name"),
    ({"OS_AUTH_URL": "http://host\n/v3"}, "the host of auth_url is no host name"),
    ({"OS_PASSWORD": ""}, "password is a required attribute"),
    ({"OS_SYSTEM_SCOPE": "all"}, "Authentication cannot be scoped to multiple targets"),
    ({"OS_TRUST_ID": "x"}, "Authentication cannot be scoped to multiple targets"),
    ({"OS_AUTH_TYPE": "nosuch"}, "nosuch"),
    ({"OS_AUTH_TYPE": "token"}, "user_domain_id"),
    ({"OS_AUTH_TYPE": "none"}, "FixedEndpointPlugin"),
    ({"OS_AUTH_TYPE": "v3applicationcredential"}, "an application credential ID"),
    ({"OS_AUTH_TYPE": "v3totp"}, "passcode"),
    ({"OS_AUTH_TYPE": "v3multifactor"}, "methods is a required option"),
    ({"OS_AUTH_TYPE": "v3oauth1"}, "consumer_key"),
    ({"OS_AUTH_TYPE": "v3oidcpassword"}, "discovery-endpoint"),
    ({"OS_CLOUD": "nosuch"}, "Cloud nosuch was not found"),
    ({"OS_API_TIMEOUT": "x"}, "a value is of the wrong form"),
    ({"OS_CLIENT_CONFIG_FILE": "FOLDER/text.cnf"}, "text.cnf: it has to hold clouds:"),
    ({"OS_AUTH_URL": HTTPS, "OS_CACERT": "/nowhere/ca.pem"}, "cacert=/nowhere/ca.pem: there is no such file"),
    ({"OS_AUTH_URL": HTTPS, "OS_CACERT": "FOLDER/text.pem"}, "text.pem: no certificate or crl found"),
    ({"OS_AUTH_URL": HTTPS, "OS_CERT": "/nowhere/c.pem", "OS_KEY": "/nowhere/k.pem"}, "cert=/nowhere/c.pem"),
    ({"OS_AUTH_URL": HTTPS, "OS_CERT": "FOLDER/cert.pem", "OS_KEY": "FOLDER/key.pem"}, "the key needs a password"),
)  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), UNUSABLE_LOGINS)
def test_variables_that_cannot_be_used_to_log_in(
    lonely: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], said: str
) -> None:
    monkeypatch.delenv("OS_CLIENT_CONFIG_FILE")
    for name, value in (VARIABLES | changes).items():
        if value:
            monkeypatch.setenv(name, value.replace("FOLDER", str(folder)))
    ended(lambda: log_in(QUICK), Usage, "the operator's credential (--os-cloud, OS_CLOUD)", said)
    assert lonely.is_dir()


SERVICE = {
    "auth_type": "password", "auth_url": "http://127.0.0.1:1/v3", "username": "nova", "password": SECRET,
    "project_name": "service", "user_domain_id": "default", "project_domain_id": "default",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({}, Unreachable, "cannot be reached"),
        ({"auth_url": ""}, Usage, "auth_url"),
        ({"auth_url": "nonsense"}, Usage, "auth_url has to begin with http"),
        ({"auth_url": "http://"}, Usage, "auth_url names no host"),
        ({"auth_url": f"http://u:{SECRET}@127.0.0.1:x/v3"}, Usage, "the port of auth_url has to be a number"),
        ({"auth_url": f"http://u:{SECRET}@a..b/v3"}, Usage, "the host of auth_url is no host name"),
        ({"auth_url": f"http://u:{SECRET}@[::1/v3"}, Usage, "a value is of the wrong form"),
        ({"endpoint_override": "nonsense"}, Usage, "[neutron]endpoint_override has to begin with http"),
        ({"endpoint_override": f"http://u:{SECRET}@h:x"}, Usage, "the port of [neutron]endpoint_override has to be a number"),
        ({"auth_type": "nosuch"}, Usage, "nosuch"),
        ({"auth_type": "token"}, Unreachable, "cannot be reached"),
        ({"auth_type": "none"}, Usage, "its auth_type does not log in to keystone"),
        ({"auth_type": "http_basic"}, Usage, "its auth_type does not log in to keystone"),
        ({"auth_type": "admin_token"}, Usage, "its auth_type does not log in to keystone"),
        ({"auth_type": "v3applicationcredential"}, Usage, "an application credential ID"),
        ({"auth_type": "v3applicationcredential", "application_credential_id": "x"}, Usage, "an auth secret"),
        ({"auth_type": "v3totp"}, Unreachable, "cannot be reached"),
        ({"auth_type": "v3multifactor"}, Usage, "auth_methods"),
        ({"auth_type": "v3oauth1"}, Usage, "consumer_key"),
        ({"password": ""}, Usage, "password"),
        ({"system_scope": "all"}, Usage, "Authentication cannot be scoped to multiple targets"),
        ({"auth_url": HTTPS, "cafile": "/nowhere/ca.pem"}, Usage, "[neutron]cafile=/nowhere/ca.pem: there is no such file"),
        ({"auth_url": HTTPS, "cafile": "x\0y"}, Usage, "[neutron]cafile="),
        ({"auth_url": HTTPS, "cafile": "FOLDER/text.pem"}, Usage, "text.pem: no certificate or crl found"),
        ({"auth_url": HTTPS, "certfile": "/nowhere/c.pem"}, Usage, "[neutron]certfile=/nowhere/c.pem"),
        ({"auth_url": HTTPS, "certfile": "FOLDER/cert.pem", "keyfile": "/nowhere/k.pem"}, Usage, "[neutron]keyfile=/nowhere/k.pem"),
        ({"auth_url": HTTPS, "certfile": "FOLDER/cert.pem", "keyfile": "FOLDER/key.pem"}, Usage, "the key needs a password"),
        ({"auth_url": HTTPS, "keyfile": "FOLDER/key.pem"}, Usage, "[neutron]keyfile is set, and [neutron]certfile is not"),
        ({"auth_type": ""}, Usage, "Set the section [neutron] of nova.conf"),
        ({"insecure": "perhaps"}, Usage, "[neutron]insecure has a value that cannot be used: Unexpected boolean value"),
        ({"password": f"{SECRET}$nowhere"}, Usage, "[neutron]password refers to an option that is not set"),
        ({"cloud": "lab"}, Usage, "clouds.yaml, named by OS_CLIENT_CONFIG_FILE, does not exist"),
    ],
)  # fmt: skip
def test_a_service_credential_that_cannot_be_used(
    lonely: Path, tmp_path: Path, folder: Path, changes: dict[str, str], kind: type[CellmoveError], said: str
) -> None:
    placed = {name: value.replace("FOLDER", str(folder)) for name, value in changes.items()}
    cloud = placed.pop("cloud", "")
    path = tmp_path / "nova.conf"
    path.write_text(
        "\n".join(["[neutron]", *(f"{name} = {value}" for name, value in (SERVICE | placed).items() if value)])
    )
    found = Settings(nova_conf=(path,), service_cloud=cloud, connect_timeout=1)
    ended(lambda: identity.probe(identity.connect_service(found)), kind, "service", said)
    assert lonely.is_dir()


@pytest.mark.parametrize("suffix", ["", "/", "/v2.0", "/v2.0/", "/v2", "//", "/v2.0//"])
def test_an_endpoint_override_may_end_in_a_version(suffix: str) -> None:
    assert identity.unversioned(f"http://neutron:9696{suffix}") == "http://neutron:9696"
    assert identity.unversioned(f"http://api/network{suffix}") == "http://api/network"


HUGE = "9" * 400

UNUSABLE_ARGUMENTS = (
    "migrate x --bwlimit fast", f"migrate x --bwlimit {HUGE}", "migrate x --bwlimit 0", "migrate x --transfer pigeon",
    "migrate x --cutover-at 99:99", "migrate x --cutover-at soon", "migrate x --max-hosts 0", "migrate x --max-hosts x",
    "confirm x --probe tcp:\N{SUPERSCRIPT TWO}", "confirm x --probe tcp:0", "confirm x --probe tcp:99999", "confirm x --probe cmd:",
    "confirm x --probe cmd:'", "confirm x --probe udp:1", "audit --older-than nan", "audit --older-than inf", "audit --older-than 1e300",
    "audit --older-than -1", "audit --older-than x", f"drain-cell c --soak {HUGE}h", "drain-cell c --soak soon", "drain-cell c --min-free nan",
    "drain-cell c --min-free 100", "drain-cell c --parallel 0", "drain-cell c --limit x", "drain-cell c --flavor-map x",
)  # fmt: skip


@pytest.mark.parametrize("line", UNUSABLE_ARGUMENTS, ids=lambda line: line[:40])
def test_an_argument_that_cannot_be_used_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    monkeypatch.setattr(settings_files, "DEFAULT_NOVA_CONF", ())
    monkeypatch.setenv("HOME", str(tmp_path))
    result = typed(*line.split(" "))
    assert result.exit_code == 2, result.output
    assert "fault in cellmove" not in result.output
    assert (
        line.split(" ")[2].lstrip("-") in result.output or "is not a probe" in result.output or "wants" in result.output
    )


def test_openssl_is_there() -> None:
    assert shutil.which("openssl"), "the tests make a certificate with it"
