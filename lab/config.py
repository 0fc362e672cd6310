"""The configuration file of every service, as text, from the layout alone.

Periodic work is lazy and worker counts are one: the machine has two cores.  Heartbeats are the exception, so that a
stopped nova-compute is seen as down after 15 seconds and not after a minute.
"""

import json
import shutil

from lab import stores
from lab.layout import CELLS, HOSTS, LOOPBACK, NAMELESS_CELL, OPERATOR_PASSWORD, PASSWORD, REGION, cell_of


def sections(*pairs):
    """An ini file: each pair is a section's name and its options (None leaves an option out)."""
    lines = []
    for name, options in pairs:
        lines.append(f"[{name}]")
        lines += [f"{option} = {value}" for option, value in options.items() if value is not None]
        lines.append("")
    return "\n".join(lines)


def credentials(layout, user):
    """Options with which a service logs in to keystone."""
    return {
        "auth_type": "password",
        "auth_url": layout.auth_url,
        "username": user,
        "password": PASSWORD,
        "project_name": "service",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        "region_name": REGION,
        "cafile": layout.cafile,
    }


def token_checks(layout, user):
    """[keystone_authtoken]: how an API checks the tokens of its callers."""
    return (
        "keystone_authtoken",
        {
            "www_authenticate_uri": layout.auth_url,
            **credentials(layout, user),
            "service_token_roles": "service",
            "service_token_roles_required": "true",
        },
    )


def service_user(layout, user):
    """[service_user]: without a service token cinder refuses to delete the attachment of a volume in use."""
    return "service_user", {"send_service_user_token": "true", **credentials(layout, user)}


def policies(policy_file=None):
    """[oslo_policy]: only the new defaults hold, and a token's scope is checked. Newer releases do so whatever is said here."""
    return (
        "oslo_policy",
        {"enforce_new_defaults": "true", "enforce_scope": "true", "policy_file": policy_file},
    )


def message_bus(layout, tls=True):
    """[oslo_messaging_rabbit], as kolla-ansible writes it: TLS, quorum queues, streams. A plain lab has only defaults.

    Without `tls` that is left to the transport URL, as openstack-ansible does. The queue manager's `hostname` and `processname` are set for each daemon, in its environment (lab/services.py).
    """
    if layout.plain:
        return "oslo_messaging_rabbit", {}
    return (
        "oslo_messaging_rabbit",
        {
            "ssl": "true" if tls else None,
            "ssl_ca_file": layout.ca if tls else None,
            "use_queue_manager": "true",
            "rabbit_quorum_queue": "true",
            "rabbit_transient_quorum_queue": "true",
            "rabbit_stream_fanout": "true",
            "rabbit_qos_prefetch_count": 1,
        },
    )


def keystone(layout):
    """keystone.conf"""
    keys = layout.state / "keystone"
    return sections(
        ("DEFAULT", {"use_stderr": "true"}),
        ("database", {"connection": layout.database_url("keystone")}),
        ("token", {"provider": "fernet", "expiration": 86400}),
        ("fernet_tokens", {"key_repository": keys / "fernet"}),
        ("fernet_receipts", {"key_repository": keys / "fernet"}),
        ("credential", {"key_repository": keys / "credential"}),
        ("cache", {"enabled": "true", "backend": "dogpile.cache.memory"}),
        ("identity", {"password_hash_rounds": 4}),
        policies(),
    )


def placement(layout):
    """placement.conf"""
    return sections(
        ("DEFAULT", {"use_stderr": "true"}),
        ("placement_database", {"connection": layout.database_url("placement")}),
        ("api", {"auth_strategy": "keystone"}),
        policies(),
        token_checks(layout, "placement"),
    )


def glance(layout):
    """glance-api.conf"""
    data = layout.state / "glance"
    return sections(
        (
            "DEFAULT",
            {"use_stderr": "true", "enabled_backends": "file:file", "node_staging_uri": f"file://{data}/staging"},
        ),
        ("database", {"connection": layout.database_url("glance")}),
        ("glance_store", {"default_backend": "file"}),
        ("file", {"filesystem_store_datadir": data / "images"}),
        ("os_glance_staging_store", {"filesystem_store_datadir": data / "staging"}),
        ("os_glance_tasks_store", {"filesystem_store_datadir": data / "tasks"}),
        (
            "paste_deploy",
            {"flavor": "keystone", "config_file": layout.venv / "etc" / "glance" / "glance-api-paste.ini"},
        ),
        ("oslo_concurrency", {"lock_path": data / "lock"}),
        policies(),
        token_checks(layout, "glance"),
    )


def cinder(layout):
    """cinder.conf: API, scheduler and the volume service with a driver that only pretends"""
    data = layout.state / "cinder"
    packaged = layout.venv / "etc" / "cinder"
    return sections(
        (
            "DEFAULT",
            {
                "use_stderr": "true",
                "transport_url": layout.transport_url(),
                "auth_strategy": "keystone",
                "my_ip": LOOPBACK,
                "host": "lab",
                "state_path": data,
                "api_paste_config": packaged / "api-paste.ini",
                "resource_query_filters_file": packaged / "resource_filters.json",
                "enabled_backends": "fake",
                "default_volume_type": "__DEFAULT__",
                "glance_ca_certificates_file": layout.cafile,
                "quota_volumes": -1,
                "quota_gigabytes": -1,
                "quota_snapshots": -1,
                "report_interval": 3,  # lab.hosts.wait_for_all waits for one
                "service_down_time": 60,
                "backend_stats_polling_interval": 5,  # the scheduler knows of no backend until it has been told
            },
        ),
        (
            "fake",
            {"volume_backend_name": "fake", "volume_driver": "cinder.tests.fake_driver.FakeLoggingVolumeDriver"},
        ),
        ("database", {"connection": layout.database_url("cinder")}),
        ("coordination", {"backend_url": f"file://{data}/coordination"}),
        message_bus(layout),
        ("nova", credentials(layout, "cinder")),
        ("oslo_concurrency", {"lock_path": data / "lock"}),
        service_user(layout, "cinder"),
        policies(),
        token_checks(layout, "cinder"),
    )


def neutron(layout):
    """neutron.conf: the API and the RPC server that the agents talk to"""
    data = layout.state / "neutron"
    return sections(
        (
            "DEFAULT",
            {
                "use_stderr": "true",
                "core_plugin": "ml2",
                "service_plugins": "",
                "transport_url": layout.transport_url(),
                "auth_strategy": "keystone",
                "state_path": data,
                "api_paste_config": layout.venv / "etc" / "neutron" / "api-paste.ini",
                "rpc_workers": 1,
                "rpc_state_report_workers": 0,
                "agent_down_time": 75,
                "notify_nova_on_port_status_changes": "true",
                "notify_nova_on_port_data_changes": "true",
                "dhcp_agent_notification": "false",
                "global_physnet_mtu": 1400,
            },
        ),
        ("database", {"connection": layout.database_url("neutron")}),
        ("nova", credentials(layout, "nova")),
        ("oslo_concurrency", {"lock_path": data / "lock"}),
        message_bus(layout),
        ("quotas", {"quota_port": -1, "quota_network": -1, "quota_subnet": -1}),
        (
            "ml2",
            {
                "type_drivers": "flat,vlan,vxlan,local",
                "tenant_network_types": "vxlan",
                "mechanism_drivers": "openvswitch",
                "extension_drivers": "port_security",
            },
        ),
        ("ml2_type_vxlan", {"vni_ranges": "1:1000"}),
        ("securitygroup", {"enable_security_group": "true"}),
        policies(),
        token_checks(layout, "neutron"),
    )


def network_agent(layout):
    """agent.conf of lab/inside/agent.py: how it reaches neutron's server"""
    return sections(
        ("oslo_concurrency", {"lock_path": layout.state / "neutron" / "lock"}),
        message_bus(layout),
    )


def nova_common(layout, folder, bus_tls=True):
    """What nova's API level and its cells have in common: how to reach the other services."""
    nova = credentials(layout, "nova")
    return [
        ("oslo_concurrency", {"lock_path": folder / "lock"}),
        message_bus(layout, bus_tls),
        service_user(layout, "nova"),
        ("placement", credentials(layout, "placement")),
        ("glance", nova),
        ("neutron", {**credentials(layout, "neutron"), "service_metadata_proxy": "false"}),
        ("cinder", {**nova, "os_region_name": REGION, "catalog_info": "block-storage::publicURL"}),
        ("keystone", nova),
        ("barbican", {"auth_endpoint": layout.auth_url, "verify_ssl_path": layout.cafile}),
        ("vnc", {"enabled": "false"}),
        ("key_manager", {"backend": "nova.keymgr.conf_key_mgr.ConfKeyManager", "fixed_key": "0" * 64}),
        # A host that failed on purpose must be asked again by the very next test.
        ("compute", {"consecutive_build_service_disable_threshold": 0}),
        # Both kinds on the bus that a service works on, as in a real cloud: nobody has to listen, see lab/stores.py.
        ("notifications", {"notification_format": "both"}),
        ("oslo_messaging_notifications", {"driver": "messagingv2"}),
        ("conductor", {"workers": 1}),
        (
            "scheduler",
            {
                "workers": 1,
                "discover_hosts_in_cells_interval": -1,
                # The hosts with a real hypervisor, where there are any, are only for flavors that require their trait.
                "enable_isolated_aggregate_filtering": "true",
            },
        ),
        token_checks(layout, "nova"),
    ]


def nova_default(layout, transport_url, folder):
    """[DEFAULT] of every nova service."""
    return {
        "transport_url": transport_url,
        "state_path": folder,
        "use_stderr": "true",
        "my_ip": LOOPBACK,
        # A service whose conductor is killed in the middle of a call of its own waits for as long before it goes on.
        "rpc_response_timeout": 20,
        "long_rpc_timeout": 120,
        "report_interval": 3,
        "service_down_time": 15,
        "manager_shutdown_timeout": 0,
        "graceful_shutdown_timeout": 5,
        "resize_confirm_window": 0,
        "update_resources_interval": 120,
        "cross_az_attach": "true",
        "allow_resize_to_same_host": "false",
        "enabled_apis": "osapi_compute",
    }


def nova_api(layout):
    """The sections of the API, the scheduler and the superconductor: the only ones that know the API database."""
    folder = layout.state / "nova" / "api"
    return [
        ("DEFAULT", nova_default(layout, layout.transport_url(), folder)),
        ("api_database", {"connection": layout.database_url("nova_api")}),
        ("database", {"connection": layout.database_url("nova_cell0")}),
        ("quota", {"instances": -1, "cores": -1, "ram": -1}),
        (
            "filter_scheduler",
            {
                "enabled_filters": "ComputeFilter,ComputeCapabilitiesFilter,ImagePropertiesFilter,"
                "ServerGroupAntiAffinityFilter,ServerGroupAffinityFilter,AggregateInstanceExtraSpecsFilter",
                # A failure made on purpose must not make a host the last choice from then on.
                "build_failure_weight_multiplier": 0,
            },
        ),
        policies(layout.etc / "nova" / "policy.yaml"),
        *nova_common(layout, folder),
    ]


# The sections that clouds often keep in files of their own, in nova.conf.d. The rest stays in nova.conf.
NOVA_CONF_PARTS = {
    "10-databases.conf": ("api_database", "database"),
    "20-services.conf": (
        "service_user",
        "placement",
        "glance",
        "neutron",
        "cinder",
        "keystone",
        "barbican",
        "keystone_authtoken",
    ),
}
# Options that refer to those of [keystone]: nova registers both, so it finds what they mean.
REFERRING = ("placement", "glance", "neutron", "cinder")


def nova_api_files(layout):
    """path -> text of nova.conf, which is split and refers to `$my_ip` and `${section.option}`; a plain lab has one file."""
    found = nova_api(layout)
    if layout.plain:
        return {layout.nova_conf: sections(*found)}
    found = [(name, with_references(name, options)) for name, options in found]
    placed = {name for names in NOVA_CONF_PARTS.values() for name in names}
    texts = {layout.nova_conf: sections(*(part for part in found if part[0] not in placed))}
    for file, names in NOVA_CONF_PARTS.items():
        texts[layout.nova_conf_folder / file] = sections(*(part for part in found if part[0] in names))
    return texts


def with_references(section, options):
    """The options of a section with references to other options in place of their values."""
    changed = dict(options)
    for name in ("transport_url", "connection"):
        if name in changed:
            changed[name] = changed[name].replace(f"@{LOOPBACK}:", "@$my_ip:")
    if section in REFERRING:
        changed |= {name: f"${{keystone.{name}}}" for name in ("cafile", "region_name") if name in changed}
    return changed


def nova_cell(layout, cell):
    """nova-<cell>.conf: conductor and computes of one cell.  No [api_database]: nothing in a cell makes up-calls.

    How TLS is spoken on the bus stands in the file of the cell without a name, and in the URL of the other.
    """
    folder = layout.state / "nova" / cell
    in_url = cell != NAMELESS_CELL
    return sections(
        ("DEFAULT", nova_default(layout, layout.transport_url(cell, query=in_url), folder)),
        ("database", {"connection": layout.database_url(f"nova_{cell}")}),
        # A compute looks at a server group's other hosts once more before it builds: that, too, is an up-call.
        ("workarounds", {"disable_group_policy_check_upcall": "true"}),
        *nova_common(layout, folder, bus_tls=not in_url),
    )


def nova_host(layout, host):
    """The second file of one nova-compute: its name, its address, its driver, and no database."""
    folder = layout.host_state(host)
    return sections(
        (
            "DEFAULT",
            {"host": host, "my_ip": HOSTS[host], "state_path": folder, "compute_driver": "labdriver.LabDriver"},
        ),
        ("oslo_concurrency", {"lock_path": folder / "lock"}),
        ("database", {"connection": ""}),
    )


def clouds(layout):
    """clouds.yaml for people and tests: `lab` is the administrator, `lab-demo` an ordinary user."""
    lines = ["clouds:"]
    for cloud, user in (("lab", "admin"), ("lab-demo", "demo")):
        lines += [
            f"  {cloud}:",
            "    auth:",
            f"      auth_url: {layout.auth_url}",
            f"      username: {user}",
            f"      password: {PASSWORD}",
            f"      project_name: {user}",
            "      user_domain_name: Default",
            "      project_domain_name: Default",
            f"    region_name: {REGION}",
            *([f"    cacert: {layout.cafile}"] if layout.cafile else []),
            "    identity_api_version: 3",
            '    compute_api_version: "2.95"',
            '    volume_api_version: "3.70"',
        ]
    return "\n".join(lines) + "\n"


def environment_file(layout):
    """`.lab/env`, to be sourced by people and read by tests."""
    variables = {
        "OS_CLIENT_CONFIG_FILE": layout.home / "clouds.yaml",
        "OS_CLOUD": "lab",
        "CELLMOVE_NOVA_CONF": ":".join(map(str, layout.nova_conf_paths)),
        "CELLMOVE_CONFIG": layout.home / "config.toml",
        "CELLMOVE_DISK_STORES": "separate",  # every host of the lab keeps its disks in a folder of its own
        "CELLMOVE_LAB_HOME": layout.home,
        "CELLMOVE_LAB_PORT_BASE": layout.port_base,
        "CELLMOVE_LAB_API_DB": layout.database_url("nova_api"),
        "CELLMOVE_LAB_CELL0_DB": layout.database_url("nova_cell0"),
        "CELLMOVE_LAB_CELL1_DB": layout.database_url("nova_cell1"),
        "CELLMOVE_LAB_CELL2_DB": layout.database_url("nova_cell2"),
        "CELLMOVE_LAB_PLACEMENT_DB": layout.database_url("placement"),
        "CELLMOVE_LAB_NEUTRON_DB": layout.database_url("neutron"),
        "CELLMOVE_LAB_CINDER_DB": layout.database_url("cinder"),
        "CELLMOVE_LAB_API_BUS": layout.transport_url(),
        "CELLMOVE_LAB_CELL1_BUS": layout.transport_url("cell1"),
        "CELLMOVE_LAB_CELL2_BUS": layout.transport_url("cell2"),
    }
    if not layout.plain:
        variables["CELLMOVE_DATABASE_USER"] = stores.OPERATOR
        variables["CELLMOVE_DATABASE_PASSWORD"] = OPERATOR_PASSWORD
        variables["CELLMOVE_BUS_USER"] = stores.OPERATOR
        variables["CELLMOVE_BUS_PASSWORD"] = OPERATOR_PASSWORD
    if layout.kvm:
        variables["CELLMOVE_LAB_SSH_CONFIG"] = layout.ssh / "config"
    return "".join(f"export {name}='{value}'\n" for name, value in variables.items())


CELLMOVE = """# Nobody watches the tests; cellmove moves nothing unattended without this line.
[policy]
unattended = true
"""

POLICY = """# Nova's default for this rule is "!": nobody may resize across cells.
"compute:servers:resize:cross_cell": "role:admin"
"""


def files(layout):
    """path -> text of everything that an `up` writes."""
    etc = layout.etc
    texts = {
        etc / "keystone" / "keystone.conf": keystone(layout),
        etc / "placement" / "placement.conf": placement(layout),
        etc / "glance" / "glance-api.conf": glance(layout),
        etc / "cinder" / "cinder.conf": cinder(layout),
        etc / "neutron" / "neutron.conf": neutron(layout),
        etc / "neutron" / "agent.conf": network_agent(layout),
        **nova_api_files(layout),
        etc / "nova" / "policy.yaml": POLICY,
        etc / "hosts.json": json.dumps({address: host for host, address in HOSTS.items()}),
        layout.home / "clouds.yaml": clouds(layout),
        layout.home / "env": environment_file(layout),
        layout.home / "config.toml": CELLMOVE,
    }
    for cell in CELLS:
        texts[etc / "nova" / f"nova-{cell}.conf"] = nova_cell(layout, cell)
    for host in HOSTS:
        # A folder of its own: nova looks for a host's identity beside every configuration file that it reads.
        texts[etc / "nova" / host / "nova-compute.conf"] = nova_host(layout, host)
    return texts


def compute_files(layout, host):
    """The configuration files of one nova-compute, in order."""
    folder = layout.etc / "nova"
    return [folder / f"nova-{cell_of(host)}.conf", folder / host / "nova-compute.conf"]


def write(layout):
    """Write all configuration files and make the folders that they name."""
    for path, text in files(layout).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    for folder in ("images", "staging", "tasks", "lock"):
        (layout.state / "glance" / folder).mkdir(parents=True, exist_ok=True)
    for project in ("cinder/lock", "cinder/coordination", "neutron/lock"):
        (layout.state / project).mkdir(parents=True, exist_ok=True)
    for name in ("api", *CELLS, *HOSTS):
        (layout.state / "nova" / name / "lock").mkdir(parents=True, exist_ok=True)
    for host in HOSTS:
        (layout.faults / host).mkdir(parents=True, exist_ok=True)
    # nova's WSGI entry point reads its paste file from the folder of its configuration file.
    shutil.copyfile(layout.venv / "etc" / "nova" / "api-paste.ini", layout.etc / "nova" / "api-paste.ini")
