"""The two kinds of lab: one deployed as clouds are, and the plain one."""

from __future__ import annotations

import pytest

from cellmove.core import nova_conf, settings
from cellmove.db.cells import resolve_url
from lab import config, services, stores
from lab.layout import (
    CELL_UUIDS,
    DEPLOYED,
    OPERATOR_PASSWORD,
    PLAIN,
    LabError,
    Layout,
    cell_labelled,
    check_kind,
    find_kind,
)


@pytest.fixture
def layout(tmp_path):
    """A lab as clouds are deployed."""
    return Layout(home=tmp_path, port_base=23000)


@pytest.fixture
def plain(tmp_path):
    """A plain lab."""
    return Layout(home=tmp_path, port_base=23000, plain=True)


def test_a_new_lab_may_be_of_either_kind(tmp_path):
    assert find_kind(tmp_path) is None
    check_kind(tmp_path, DEPLOYED)
    check_kind(tmp_path, PLAIN)


def test_a_lab_older_than_the_record_is_plain(tmp_path):
    (tmp_path / "port-base").write_text("23000\n")
    assert find_kind(tmp_path) == PLAIN


@pytest.mark.parametrize(
    ("made_as", "wanted", "command"),
    [(PLAIN, DEPLOYED, "make lab-up PLAIN=1"), (DEPLOYED, PLAIN, "make lab-up")],
)
def test_a_lab_comes_up_as_the_kind_that_it_was_made_as(tmp_path, made_as, wanted, command):
    (tmp_path / "kind").write_text(f"{made_as}\n")
    check_kind(tmp_path, made_as)
    with pytest.raises(LabError) as refused:
        check_kind(tmp_path, wanted)
    assert "\n" not in str(refused.value)
    assert f"`{command}`" in str(refused.value)
    assert "`make lab-wipe`" in str(refused.value)


def test_transport_urls_name_two_brokers_and_how_tls_is_spoken(layout):
    assert layout.transport_url("cell1") == (
        "rabbit://lab:lab-secret@127.0.0.1:23001,lab:lab-secret@127.0.0.1:23004/cell1"
        f"?ssl=1&ssl_version=TLSv1_2&ssl_ca_file={layout.ca}"
    )
    assert layout.transport_url("cell1", query=False).endswith("@127.0.0.1:23004/cell1")


def test_a_plain_lab_has_one_broker_without_tls(plain):
    assert plain.transport_url("cell1") == "rabbit://lab:lab-secret@127.0.0.1:23001/cell1"


def test_the_queue_manager_counts_for_each_daemon_of_each_lab_apart(tmp_path):
    """It counts in a file of these two names in /dev/shm; daemons that share one take each other's replies."""
    names = set()
    for port_base in (23000, 23100):
        lab = Layout(home=tmp_path, port_base=port_base)
        daemons = services.plan(lab, services.ordinary_services(lab))["services"]
        for daemon in daemons:
            variables = daemon["variables"]
            names.add(
                (variables["OS_OSLO_MESSAGING_RABBIT__HOSTNAME"], variables["OS_OSLO_MESSAGING_RABBIT__PROCESSNAME"])
            )
    assert len(names) == 2 * len(daemons)


def test_every_service_on_the_bus_uses_quorum_queues_and_streams(layout):
    for text in (
        config.nova_api_files(layout)[layout.nova_conf],
        config.nova_cell(layout, "cell1"),
        config.cinder(layout),
        config.neutron(layout),
    ):
        for option in (
            "use_queue_manager",
            "rabbit_quorum_queue",
            "rabbit_transient_quorum_queue",
            "rabbit_stream_fanout",
        ):
            assert f"\n{option} = true\n" in text


def test_a_plain_lab_leaves_the_bus_at_its_defaults(plain):
    (text,) = config.nova_api_files(plain).values()
    assert "rabbit_quorum_queue" not in text
    assert "ssl" not in text


def test_every_login_at_keystone_trusts_the_labs_ca(layout, plain):
    """A section with `auth_url` and without `cafile` would be refused by the first API that it calls."""
    for lab, tls in ((layout, True), (plain, False)):
        for path, text in config.files(lab).items():
            for section in text.split("\n["):
                if "\nauth_url = " in section:
                    named = [line for line in section.splitlines() if line.startswith("cafile = ")]
                    assert named in ([[f"cafile = {lab.ca}"], ["cafile = ${keystone.cafile}"]] if tls else [[]]), path


def test_databases_and_apis_are_reached_over_tls(layout, plain):
    assert layout.database_url("nova_api").endswith(f"?charset=utf8mb4&ssl_ca={layout.ca}")
    assert layout.url("nova").startswith("https://")
    assert f"cacert: {layout.ca}" in config.clouds(layout)
    assert "ssl" not in plain.database_url("nova_api")
    assert plain.url("nova").startswith("http://")
    assert "cacert" not in config.clouds(plain)


def test_only_the_labs_administrator_may_reach_mariadb_without_tls(layout, plain):
    for lab, expected in ((layout, True), (plain, False)):
        (lab.state / "mariadb").mkdir(parents=True, exist_ok=True)
        lab.etc.mkdir(exist_ok=True)
        stores.prepare_mariadb(lab)
        logins = [line for line in (lab.etc / "mariadb.sql").read_text().splitlines() if line.startswith("ALTER USER")]
        assert {line.endswith("REQUIRE SSL;") for line in logins if "'root'" not in line and "'lab'" not in line} == {
            expected
        }
        assert [line for line in logins if "'lab'@" in line and "SSL" in line] == []


def test_one_cell_has_no_name_and_is_typed_as_its_uuid(layout, plain):
    assert layout.cell_name("cell1") is None
    assert layout.operator_name("cell1") == CELL_UUIDS["cell1"]
    assert layout.display_name("cell1") == "11111111"
    assert {layout.cell_name("cell2"), layout.operator_name("cell2"), layout.display_name("cell2")} == {"cell2"}
    assert {plain.cell_name("cell1"), plain.operator_name("cell1"), plain.display_name("cell1")} == {"cell1"}


def test_the_labels_of_cells_are_found_by_their_uuids():
    assert [cell_labelled(uuid) for uuid in CELL_UUIDS.values()] == list(CELL_UUIDS)
    assert cell_labelled("33333333-3333-4333-8333-333333333333") is None


def test_tls_of_the_bus_stands_in_the_file_of_one_cell_and_in_the_url_of_the_other(layout):
    kolla, ansible = config.nova_cell(layout, "cell1"), config.nova_cell(layout, "cell2")
    assert "\nssl_ca_file = " in kolla
    assert "?ssl=1" not in kolla
    assert "\nssl_ca_file = " not in ansible
    assert "/nova-cell2?ssl=1&ssl_version=TLSv1_2&ssl_ca_file=" in ansible


def test_a_cells_template_is_filled_in_from_the_api_levels_url(layout):
    """As nova does it: with two brokers {password} is everything from the first password to the last."""
    filled = resolve_url(
        "{scheme}://{username}:{password}@{hostname}:{port}//{path}-cell2?{query}", layout.transport_url()
    )
    assert filled == layout.transport_url("cell2")


def test_cellmoves_user_is_given_what_its_documentation_names_in_every_cell(layout, plain):
    statements = stores.operator_rights(layout)
    for cell in ("cell1", "cell2"):
        assert f"GRANT INSERT, UPDATE, DELETE ON nova_{cell}.instances TO 'cellmove'@'%';" in statements
    assert f"CREATE USER 'cellmove'@'%' IDENTIFIED BY '{OPERATOR_PASSWORD}' REQUIRE SSL;" in statements
    assert not any("nova_cell2" in line for line in stores.GRANTS.read_text().splitlines())
    assert "CELLMOVE_DATABASE_USER='cellmove'" in config.environment_file(layout)
    assert "CELLMOVE_DATABASE_USER" not in config.environment_file(plain)


def test_cellmoves_user_of_the_buses_may_do_what_its_documentation_names(layout, plain):
    """On the bus of the API level nova sends notifications; on those of the cells cellmove sends none."""
    everywhere, notifying = stores.documented_permissions()
    assert "notifications" in notifying["write"]
    assert "notifications" not in "".join(everywhere.values())
    given = {each.pop("vhost"): each for each in stores.operator_permissions(layout)}
    names = layout.virtual_hosts
    assert given == {
        names["/"]: {"user": "cellmove", **notifying},
        names["cell1"]: {"user": "cellmove", **everywhere},
        names["cell2"]: {"user": "cellmove", **everywhere},
    }
    assert f"CELLMOVE_BUS_PASSWORD='{OPERATOR_PASSWORD}'" in config.environment_file(layout)
    assert "CELLMOVE_BUS_USER" not in config.environment_file(plain)


def test_every_service_with_an_api_holds_new_policy_defaults_only(layout):
    texts = {path.name: text for path, text in config.files(layout).items()}
    for name in ("keystone.conf", "placement.conf", "glance-api.conf", "cinder.conf", "neutron.conf", "nova.conf"):
        policies = texts[name].partition("[oslo_policy]\n")[2].partition("\n[")[0]
        assert "enforce_new_defaults = true\nenforce_scope = true" in policies, name


def test_nova_conf_is_split_and_refers_to_other_options(layout):
    for path, text in config.nova_api_files(layout).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    main, folder = layout.nova_conf_paths
    assert "transport_url = rabbit://lab:lab-secret@$my_ip:23001,lab:lab-secret@$my_ip:23004//nova?" in main.read_text()
    assert "[neutron]" not in main.read_text()
    assert "cafile = ${keystone.cafile}" in (folder / "20-services.conf").read_text()
    found = settings.load({"nova_conf": ":".join(map(str, layout.nova_conf_paths))}, {"HOME": str(layout.home)})
    assert found.transport_url == layout.transport_url()
    assert found.api_database_url == layout.database_url("nova_api")
    assert found.main_database_url == layout.database_url("nova_cell0")
    login = nova_conf.service_login(found.nova_conf)
    assert login is not None
    assert (login.session.verify, login.region_name) == (str(layout.ca), "RegionOne")


def test_a_plain_lab_has_one_nova_conf(plain):
    assert plain.nova_conf_paths == list(config.nova_api_files(plain)) == [plain.nova_conf]
    assert "$" not in config.nova_api_files(plain)[plain.nova_conf]
