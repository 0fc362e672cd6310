"""Settings: what wins over what, nova.conf's syntax, and that no secret shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellmove.core import settings, settings_files
from cellmove.core.errors import Usage
from cellmove.core.login import Login

SECRET = "s3cret-pw"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, and no nova.conf of this machine's."""
    monkeypatch.setattr(settings_files, "DEFAULT_NOVA_CONF", (tmp_path / "etc/nova.conf", tmp_path / "etc/nova.conf.d"))
    return tmp_path


def load(home: Path, flags: dict[str, str | None] | None = None, **environ: str) -> settings.Settings:
    return settings.load(flags or {}, {"HOME": str(home), **environ})


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def config(home: Path, text: str) -> None:
    write(home / ".config/cellmove/config.toml", text)


def test_defaults_without_any_file(home: Path) -> None:
    found = load(home)
    assert found.nova_conf == ()
    assert found.api_database_url == ""
    assert (found.control_exchange, found.default_availability_zone) == ("nova", "nova")
    assert (found.rpc_response_timeout, found.long_rpc_timeout, found.service_down_time) == (60, 1800, 60)
    assert found.connect_timeout == 5
    assert found.service_cloud == ""
    assert found.journal == str(home / ".local/state/cellmove/journal.db")


def test_precedence_from_default_to_flag(home: Path) -> None:
    conf = write(home / "nova.conf", "[DEFAULT]\ntransport_url = rabbit://conf/\n")
    assert load(home, {"nova_conf": conf}).transport_url == "rabbit://conf/"
    config(home, 'transport_url = "rabbit://toml/"\n')
    assert load(home, {"nova_conf": conf}).transport_url == "rabbit://toml/"
    assert load(home, {"nova_conf": conf}, CELLMOVE_TRANSPORT_URL="rabbit://env/").transport_url == "rabbit://env/"
    flags: dict[str, str | None] = {"nova_conf": conf, "transport_url": "rabbit://flag/"}
    assert load(home, flags, CELLMOVE_TRANSPORT_URL="rabbit://env/").transport_url == "rabbit://flag/"


def test_a_flag_that_was_not_given_does_not_hide_the_environment(home: Path) -> None:
    assert load(home, {"os_cloud": None}, OS_CLOUD="prod").os_cloud == "prod"


def test_later_nova_conf_files_win_and_the_rest_stays(home: Path) -> None:
    first = write(home / "a.conf", "[DEFAULT]\nlong_rpc_timeout = 100\nservice_down_time = 7\n")
    second = write(home / "b.conf", "[DEFAULT]\nlong_rpc_timeout = 200\n")
    found = load(home, CELLMOVE_NOVA_CONF=f"{first}:{second}")
    assert found.nova_conf == (Path(first), Path(second))
    assert (found.long_rpc_timeout, found.service_down_time) == (200, 7)


def test_default_conf_directory_comes_after_the_file_in_order_of_names(home: Path) -> None:
    write(home / "etc/nova.conf", "[DEFAULT]\ntransport_url = rabbit://file/\ncontrol_exchange = x\n")
    write(home / "etc/nova.conf.d/20.conf", "[DEFAULT]\ntransport_url = rabbit://twenty/\n")
    write(home / "etc/nova.conf.d/10.conf", "[DEFAULT]\ntransport_url = rabbit://ten/\n")
    write(home / "etc/nova.conf.d/README", "not a configuration\n")
    found = load(home)
    assert (found.transport_url, found.control_exchange) == ("rabbit://twenty/", "x")


def test_what_nova_conductor_reads_without_arguments_is_read_in_its_order(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oslo.config looks for files of the project's and of the program's name, and then for such directories."""
    from oslo_config import cfg

    default = [
        f"/etc/nova/{name}" for name in ("nova.conf", "nova-conductor.conf", "nova.conf.d", "nova-conductor.conf.d")
    ]
    monkeypatch.undo()
    assert [str(path) for path in settings_files.DEFAULT_NOVA_CONF] == default
    paths = [home / "etc" / Path(path).name for path in default]
    monkeypatch.setattr(settings_files, "DEFAULT_NOVA_CONF", tuple(paths))
    names = ("nova.conf", "nova-conductor.conf", "nova.conf.d/a.conf", "nova-conductor.conf.d/b.conf")
    monkeypatch.setattr(cfg, "_get_config_dirs", lambda _project: [str(home / "etc")])
    for number, name in enumerate(names):
        write(home / "etc" / name, f"[DEFAULT]\nlong_rpc_timeout = {number + 1}\n")
        write(home / "etc/nova-cell1.conf", "[DEFAULT]\nlong_rpc_timeout = 99\n")
        oslo = cfg.ConfigOpts()
        oslo.register_opt(cfg.IntOpt("long_rpc_timeout"))
        oslo([], project="nova", prog="nova-conductor")
        assert oslo.long_rpc_timeout == load(home).long_rpc_timeout == number + 1


def test_named_files_and_directories_are_read_in_the_order_given_and_no_others(home: Path) -> None:
    """As --config-file and --config-dir; a program that is given only --config-file=nova.conf reads nova.conf.d before it."""
    from oslo_config import cfg

    write(home / "etc/nova.conf.d/default.conf", "[DEFAULT]\ncontrol_exchange = default\n")
    main = write(home / "nova.conf", "[DEFAULT]\nlong_rpc_timeout = 1\nservice_down_time = 1\n")
    cell = write(
        home / "nova-cell1.conf", "[DEFAULT]\nlong_rpc_timeout = 2\n[oslo_messaging_notifications]\ndriver = log\n"
    )
    write(
        home / "own.d/20.conf",
        "[DEFAULT]\nlong_rpc_timeout = 4\n[oslo_messaging_notifications]\ndriver = messagingv2\n",
    )
    write(home / "own.d/10.conf", "[DEFAULT]\nlong_rpc_timeout = 3\n")
    (home / "empty.d").mkdir()
    for named, expected in (
        (f"{main}:{cell}:{home}/own.d:{home}/empty.d", 4),
        (f"{home}/own.d:{main}", 1),
        (f"{main}:{home}/own.d:{cell}", 2),
        (main, 1),
    ):
        oslo = cfg.ConfigOpts()
        oslo.register_opt(cfg.IntOpt("long_rpc_timeout"))
        arguments = [("--config-dir" if path.endswith(".d") else "--config-file", path) for path in named.split(":")]
        oslo([word for pair in arguments for word in pair], project="nova", default_config_dirs=[])
        found = load(home, CELLMOVE_NOVA_CONF=named)
        assert found.long_rpc_timeout == oslo.long_rpc_timeout == expected
        assert (found.service_down_time, found.control_exchange) == (1, "nova")
    assert load(home, {"nova_conf": f"{cell}:{home}/own.d"}).notifications.driver == "messagingv2"
    config(home, f'nova_conf = ["{main}", "{home}/own.d"]\n')
    assert load(home).long_rpc_timeout == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[DEFAULT]\nmy_ip=10.0.0.1\ntransport_url=rabbit://$my_ip/\n", "rabbit://10.0.0.1/"),
        ("[DEFAULT]\nmy_ip=10.0.0.1\ntransport_url=rabbit://${my_ip}:5672/\n", "rabbit://10.0.0.1:5672/"),
        ("[bus]\nhost=h\n[DEFAULT]\ntransport_url=rabbit://$bus.host/\n", "rabbit://h/"),
        ("[DEFAULT]\na=x\nb=$a-$a\ntransport_url=rabbit://$b/\n", "rabbit://x-x/"),
        ("[DEFAULT]\ntransport_url=rabbit://u:p$$w@h/\n", "rabbit://u:p$w@h/"),
        ("[DEFAULT]\ntransport_url=rabbit://u:p\\$w@h/\n", "rabbit://u:p$w@h/"),
        ("[DEFAULT]\ntransport_url=rabbit://u:p$5@h/\n", "rabbit://u:p$5@h/"),
        ('[DEFAULT]\ntransport_url = "rabbit://h/#x"\n', "rabbit://h/#x"),
        ("[DEFAULT]\ntransport_url : rabbit://h/\n", "rabbit://h/"),
        ("[DEFAULT]\ntransport_url = rabbit://1/\ntransport_url = rabbit://2/\n", "rabbit://2/"),
    ],
)
def test_nova_conf_values_are_read_as_oslo_config_does(home: Path, text: str, expected: str) -> None:
    from oslo_config import cfg

    path = write(home / "nova.conf", text)
    oslo = cfg.ConfigOpts()
    oslo.register_opts([cfg.StrOpt(name) for name in ("transport_url", "my_ip", "a", "b")])
    oslo.register_opt(cfg.StrOpt("host"), group="bus")
    oslo(["--config-file", path], project="x", default_config_files=[], default_config_dirs=[])
    assert oslo.transport_url == expected
    assert load(home, {"nova_conf": path}).transport_url == expected


def test_values_over_several_lines_and_section_names_in_capitals(home: Path) -> None:
    text = "[API_Database]\nconnection = mysql://h/nova_api\n[DEFAULT]\nnon_inheritable_image_properties =\n  a,\n  b\n"
    found = load(home, {"nova_conf": write(home / "nova.conf", text)})
    assert found.api_database_url == "mysql://h/nova_api"
    assert found.non_inheritable_image_properties == ("a", "b")


def test_oslo_environment_variables_win_over_the_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(home / "nova.conf", "[api_database]\nconnection = mysql://file/\n")
    monkeypatch.setenv("OS_API_DATABASE__CONNECTION", "mysql://environment/")
    for flags in ({"nova_conf": path}, {}):
        found = load(home, dict(flags), OS_API_DATABASE__CONNECTION="mysql://environment/")
        assert found.api_database_url == "mysql://environment/"


@pytest.mark.parametrize("value", ["$nowhere", "$transport_url", "p$database.nowhere"])
def test_the_option_whose_reference_leads_nowhere_is_named(home: Path, value: str) -> None:
    path = write(home / "nova.conf", f"[DEFAULT]\ntransport_url = rabbit://{value}/\n")
    with pytest.raises(
        Usage, match=r"nova\.conf: \[DEFAULT\]transport_url refers to an option that is not set"
    ) as caught:
        load(home, {"nova_conf": path})
    assert value not in str(caught.value), "it may be a part of a password"


def test_a_file_that_was_named_has_to_be_there(home: Path) -> None:
    with pytest.raises(Usage, match=r"missing\.conf does not exist.*CELLMOVE_NOVA_CONF"):
        load(home, CELLMOVE_NOVA_CONF=str(home / "missing.conf"))
    with pytest.raises(Usage, match=r"missing\.toml, named by CELLMOVE_CONFIG"):
        load(home, CELLMOVE_CONFIG=str(home / "missing.toml"))


def test_a_line_that_does_not_parse_is_named_but_not_quoted(home: Path) -> None:
    path = write(home / "nova.conf", f"[database]\nconnection {SECRET}\n")
    with pytest.raises(Usage, match="line 2") as caught:
        load(home, {"nova_conf": path})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('jornal = "x"\n', "unknown key 'jornal'; did you mean 'journal'"),
        ("journal = 3\n", "journal has a value of the wrong type"),
        ("journal = \n", "not valid TOML"),
        ("connect_timeout = 0\n", "connect_timeout has to be a number of seconds above 0"),
    ],
)
def test_a_wrong_config_file_is_refused(home: Path, text: str, message: str) -> None:
    config(home, text)
    with pytest.raises(Usage, match=message):
        load(home)


def test_require_says_how_to_set_what_is_missing(home: Path) -> None:
    path = write(home / "nova.conf", "[DEFAULT]\ncontrol_exchange = x\n")
    found = load(home, {"nova_conf": path})
    assert settings.require(found, "control_exchange") == "x"
    with pytest.raises(Usage) as caught:
        settings.require(found, "api_database_url")
    assert "[api_database]connection" in str(caught.value)
    assert "CELLMOVE_API_DATABASE" in str(caught.value)
    assert path in str(caught.value)


def test_service_cloud_is_an_entry_of_clouds_yaml(home: Path) -> None:
    config(home, 'service_cloud = "svc"\n')
    assert load(home).service_cloud == "svc"
    assert load(home, CELLMOVE_SERVICE_CLOUD="other").service_cloud == "other"


def test_repr_shows_no_secret(home: Path) -> None:
    text = f"[DEFAULT]\ntransport_url = rabbit://u:{SECRET}@h/\n"
    text += f"[database]\nconnection = mysql://u:{SECRET}@h/d\n[api_database]\nconnection = mysql://u:{SECRET}@h/a\n"
    path = write(home / "nova.conf", text)
    found = load(home, {"nova_conf": path, "journal": f"mysql://u:{SECRET}@h/j"})
    assert SECRET in found.journal + found.transport_url
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/var/lib/x.db", "/var/lib/x.db"), ("mysql://u@h/j", "mysql://u@h/j"), ("sqlite:////x", "sqlite:////x")],
)
def test_the_journal_is_a_path_or_a_url(home: Path, value: str, expected: str) -> None:
    assert load(home, CELLMOVE_JOURNAL=value).journal == expected


def test_the_journal_follows_xdg_and_is_absolute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(home, XDG_STATE_HOME=str(home / "state")).journal == str(home / "state/cellmove/journal.db")
    monkeypatch.chdir(home)
    assert load(home, {"journal": "j.db"}).journal == str(home / "j.db")


def test_disk_stores_of_all_cells_or_of_a_pair(home: Path) -> None:
    assert settings.disk_store_between(load(home), ["a"], ["b"]) == "unknown"
    config(home, 'disk_stores = "separate"\n')
    assert settings.disk_store_between(load(home), ["a"], ["b"]) == "separate"
    config(home, '[disk_stores]\n"a b" = "separate"\n"c a" = "shared"\n')
    found = load(home)
    pairs = (("a", "b"), ("b", "a"), ("a", "c"), ("b", "c"))
    assert [settings.disk_store_between(found, *pair) for pair in pairs] == [
        "separate", "separate", "shared", "unknown",
    ]  # fmt: skip
    config(home, '[disk_stores]\ndefault = "separate"\n"a b" = "shared"\n')
    assert settings.disk_store_between(load(home), ["a"], ["b"]) == "shared"
    assert settings.disk_store_between(load(home), ["a"], ["c"]) == "separate"
    assert settings.disk_store_between(load(home, CELLMOVE_DISK_STORES="shared"), ["a"], ["c"]) == "shared"


@pytest.mark.parametrize("text", ['"a" = "separate"', '"a b c" = "separate"', '"a b" = "apart"', '"a b" = 1'])
def test_disk_stores_that_make_no_sense(home: Path, text: str) -> None:
    config(home, f"[disk_stores]\n{text}\n")
    with pytest.raises(Usage, match="disk_stores"):
        load(home)


def test_the_policy_knows_its_file(home: Path) -> None:
    assert not load(home).policy.unattended
    config(home, '[policy]\nunattended = true\nmoves_a_day = 7\n[policy.deny]\ntags = "x"\nhosts = ["a*", "b"]\n')
    found = load(home).policy
    assert (found.unattended, found.moves_a_day) == (True, 7)
    assert found.deny == {"tags": ("x",), "hosts": ("a*", "b")}
    assert found.file == str(home / ".config/cellmove/config.toml")


def test_its_own_database_user_replaces_that_of_novas_urls(home: Path) -> None:
    conf = write(
        home / "nova.conf", "[api_database]\nconnection = mysql+pymysql://nova:pw@h:3306/nova_api?ssl_ca=/ca\n"
    )
    own = {"CELLMOVE_DATABASE_USER": "cellmove", "CELLMOVE_DATABASE_PASSWORD": f"/@:{SECRET}"}
    found = load(home, {"nova_conf": conf}, **own)
    assert found.api_database_url == f"mysql+pymysql://cellmove:%2F%40%3A{SECRET}@h:3306/nova_api?ssl_ca=%2Fca"
    assert found.database_login == Login("cellmove", f"/@:{SECRET}")
    assert SECRET not in repr(found)
    given = "mysql://other:pw@h/nova_api"
    assert load(home, {"nova_conf": conf}, CELLMOVE_API_DATABASE=given, **own).api_database_url == given
    assert load(home, {"nova_conf": conf}).database_login is None


def test_connection_parameters_are_appended_to_the_urls_of_nova_conf(home: Path) -> None:
    text = "[api_database]\nconnection = mysql+pymysql://u:p%40@h/nova_api?charset=utf8\nconnection_parameters = ssl_ca=/ca&$own\n"
    text += f"[database]\nconnection = mysql://u:p@h/cell0\nconnection_parameters = ssl_key_password={SECRET}\n[DEFAULT]\nown = read_timeout=9\n"
    conf = write(home / "nova.conf", text)
    found = load(home, {"nova_conf": conf})
    assert found.api_database_url == "mysql+pymysql://u:p%40@h/nova_api?charset=utf8&read_timeout=9&ssl_ca=%2Fca"
    assert found.main_database_url == "mysql://u:p@h/cell0", "templates are filled in without them"
    assert found.cell_database_parameters == f"ssl_key_password={SECRET}"
    assert SECRET not in repr(found)
    given = "mysql://other:pw@h/nova_api"
    assert load(home, {"nova_conf": conf}, CELLMOVE_API_DATABASE=given).api_database_url == given


def test_half_a_database_login_is_refused(home: Path) -> None:
    for half in ({"CELLMOVE_DATABASE_USER": "cellmove"}, {"CELLMOVE_DATABASE_PASSWORD": SECRET}):
        with pytest.raises(Usage, match="set both database_user and database_password") as refused:
            load(home, **half)
        assert SECRET not in str(refused.value)
