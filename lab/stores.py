"""MariaDB and RabbitMQ of the lab: their files, their commands, and SQL through MariaDB's own client."""

import base64
import gzip
import hashlib
import json
import os
import pwd
import re
import shlex
import shutil
import subprocess

from lab.layout import CELLS, DATABASES, LOOPBACK, OPERATOR_PASSWORD, PASSWORD, REPOSITORY, LabError

GRANTS = REPOSITORY / "docs" / "database-grants.sql"
DEPLOYMENTS = REPOSITORY / "docs" / "deployments.md"
OPERATOR = "cellmove"

# The lab's data is worth nothing after a power cut, so nothing waits for a disk.
MARIADB_OPTIONS = (
    "--skip-name-resolve",
    "--skip-log-bin",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--innodb-buffer-pool-size=192M",
    "--innodb-log-file-size=64M",
    "--performance-schema=off",
    "--max-connections=600",
    "--max-allowed-packet=64M",
    "--character-set-server=utf8mb4",
    "--socket=mariadb.sock",  # relative to the data folder: an absolute one could be too long for a socket
)


def user_name():
    """Who runs the lab; MariaDB wants to be told before it runs as root."""
    return pwd.getpwuid(os.geteuid()).pw_name


def prepare_mariadb(layout):
    """Make the data folder once, and the file of statements that every start runs."""
    data = layout.state / "mariadb"
    if not data.exists():
        part = data.with_name("mariadb.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                f"--datadir={part}",
                f"--user={user_name()}",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        part.rename(data)
    statements = ["FLUSH PRIVILEGES;"]
    statements.append(f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{PASSWORD}';")
    users = sorted(set(DATABASES.values()))
    for user in ("lab", *users):
        account = f"'{user}'@'{LOOPBACK}'"
        statements.append(f"CREATE USER IF NOT EXISTS {account};")
        # The lab's own administrator is no part of the cloud: its many short connections do without TLS.
        tls = "" if layout.plain or user == "lab" else " REQUIRE SSL"
        statements.append(f"ALTER USER {account} IDENTIFIED BY '{PASSWORD}'{tls};")
    statements.append(f"GRANT ALL ON *.* TO 'lab'@'{LOOPBACK}' WITH GRANT OPTION;")
    for database, user in DATABASES.items():
        statements.append(f"CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4;")
        statements.append(f"GRANT ALL ON {database}.* TO '{user}'@'{LOOPBACK}';")
    (layout.etc / "mariadb.sql").write_text("\n".join(statements) + "\n")


def documented_rights():
    """The statements of cellmove's documentation that say what its own database user may do."""
    return [line for line in GRANTS.read_text().splitlines() if line and not line.startswith("--")]


def cell_rights(cell):
    """Those about one cell."""
    return [line.replace("nova_cell1.", f"nova_{cell}.") for line in documented_rights() if "nova_cell1." in line]


def operator_rights(layout):
    """The statements that make cellmove's own database user, with the rights that its documentation names and no more."""
    account = f"'{OPERATOR}'@'%'"
    tls = "" if layout.plain else " REQUIRE SSL"
    return [
        f"DROP USER IF EXISTS {account};",
        f"CREATE USER {account} IDENTIFIED BY '{OPERATOR_PASSWORD}'{tls};",
        *documented_rights(),
        *(line for cell in CELLS for line in cell_rights(cell)),
    ]


def mariadb_command(layout):
    """The command of the database server."""
    return [
        shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin") or "mariadbd",
        "--no-defaults",
        f"--datadir={layout.state / 'mariadb'}",
        f"--bind-address={LOOPBACK}",
        f"--port={layout.port('mariadb')}",
        f"--init-file={layout.etc / 'mariadb.sql'}",
        f"--user={user_name()}",
        *MARIADB_OPTIONS,
        *mariadb_tls(layout),
    ]


def mariadb_tls(layout):
    """The options with which the server speaks TLS; none in a plain lab."""
    if layout.plain:
        return []
    tls = layout.certificates
    return [f"--ssl-ca={tls / 'ca.pem'}", f"--ssl-cert={tls / 'server.pem'}", f"--ssl-key={tls / 'server.key'}"]


def client(layout, program="mariadb"):
    """The command line of a MariaDB client program, as the lab's own database administrator."""
    return [
        program,
        "--no-defaults",
        "--default-character-set=utf8mb4",
        f"--host={LOOPBACK}",
        f"--port={layout.port('mariadb')}",
        "--protocol=tcp",
        "--user=lab",
        f"--password={PASSWORD}",
    ]


def query(layout, statement, database=None):
    """Run SQL and return its rows as lists of strings."""
    command = [*client(layout), "--batch", "--skip-column-names", "--execute", statement]
    result = subprocess.run(command + ([database] if database else []), capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(f"SQL failed: {result.stderr.strip()}\n{statement}")
    return [line.split("\t") for line in result.stdout.splitlines()]


def table_counts(layout):
    """database -> how many tables it has: an empty one has no schema yet."""
    rows = query(
        layout,
        "SELECT s.schema_name, COUNT(t.table_name) FROM information_schema.schemata s "
        "LEFT JOIN information_schema.tables t ON t.table_schema = s.schema_name GROUP BY s.schema_name",
    )
    return {name: int(count) for name, count in rows if name in DATABASES}


def dump(layout, databases):
    """The SQL that makes these databases' tables and rows, without naming a database when there is only one."""
    names = [*databases] if len(databases) == 1 else ["--databases", *databases]
    command = [*client(layout, "mariadb-dump"), "--skip-comments", "--single-transaction", *names]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def load(layout, sql, database=None):
    """Feed SQL to the server."""
    command = client(layout) + ([database] if database else [])
    fast = b"SET SESSION foreign_key_checks=0, unique_checks=0, autocommit=0;\n"
    subprocess.run(command, check=True, input=fast + sql + b"\nCOMMIT;\n")


def save_cache(layout, path):
    """Keep a dump of all fresh schemas: the next lab with the same packages loads it in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob("schema-*.sql.gz"):
        old.unlink()
    part = path.with_suffix(".part")
    part.write_bytes(gzip.compress(dump(layout, list(DATABASES)), compresslevel=5))
    part.rename(path)


def load_cache(layout, path):
    """Load what `save_cache` kept."""
    load(layout, gzip.decompress(path.read_bytes()))


def rabbit_password_hash(password):
    """RabbitMQ's rabbit_password_hashing_sha256: a salt, then the digest of salt and password."""
    salt = b"lab!"
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def prepare_rabbitmq(layout):
    """Configuration and definitions: users and virtual hosts are imported at boot, rabbitmqctl is never needed."""
    folder = layout.etc / "rabbitmq"
    folder.mkdir(parents=True, exist_ok=True)
    (layout.state / "rabbitmq").mkdir(parents=True, exist_ok=True)
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    virtual_hosts = layout.virtual_hosts.values()
    definitions = {
        "users": [
            {
                "name": name,
                "password_hash": rabbit_password_hash(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": tags,
            }
            for name, password, tags in (("lab", PASSWORD, "administrator"), (OPERATOR, OPERATOR_PASSWORD, ""))
        ],
        "vhosts": [{"name": name} for name in virtual_hosts],
        "permissions": [
            *({"user": "lab", "vhost": name, **everything} for name in virtual_hosts),
            *operator_permissions(layout),
        ],
        # Notifications that nobody takes push the oldest ones out.
        "policies": [
            {
                "vhost": name,
                "name": "unread-notifications",
                "pattern": r"^(versioned_)?notifications\.",
                "apply-to": "queues",
                "priority": 0,
                "definition": {"max-length": 500},
            }
            for name in virtual_hosts
        ],
    }
    (folder / "definitions.json").write_text(json.dumps(definitions, indent=1))
    (folder / "rabbitmq.conf").write_text(
        rabbitmq_listeners(layout) + f"load_definitions = {folder / 'definitions.json'}\n"
        "vm_memory_high_watermark.absolute = 1GB\n"
        "disk_free_limit.absolute = 200MB\n"
        "log.console = true\nlog.console.level = warning\nlog.file = false\n"
    )
    # Erlang's own network: loopback only; and no busy waiting on a machine with two cores.
    (folder / "advanced.config").write_text("[{kernel, [{inet_dist_use_interface, {127,0,0,1}}]}].\n")
    (folder / "enabled_plugins").write_text("[].\n")


def documented_permissions():
    """The permissions of cellmove's documentation at the message buses: those of every bus, and those where nova sends notifications."""
    page = DEPLOYMENTS.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ +rabbitmqctl (set_permissions .*)$", page, re.MULTILINE)
    return [dict(zip(("configure", "write", "read"), shlex.split(line)[-3:], strict=True)) for line in lines]


def operator_permissions(layout):
    """What cellmove's own user of the buses may do: as documented, and no more."""
    everywhere, notifying = documented_permissions()
    return [
        {"user": OPERATOR, "vhost": name, **(notifying if label == "/" else everywhere)}
        for label, name in layout.virtual_hosts.items()
    ]


def rabbitmq_listeners(layout):
    """Where the broker listens: on one port in a plain lab, else on two, with TLS."""
    first = layout.port("rabbitmq")
    if layout.plain:
        return f"listeners.tcp.1 = {LOOPBACK}:{first}\n"
    tls = layout.certificates
    return (
        "listeners.tcp = none\n"
        f"listeners.ssl.1 = {LOOPBACK}:{first}\n"
        f"listeners.ssl.2 = {LOOPBACK}:{layout.port('rabbitmq-second')}\n"
        f"ssl_options.cacertfile = {tls / 'ca.pem'}\n"
        f"ssl_options.certfile = {tls / 'server.pem'}\n"
        f"ssl_options.keyfile = {tls / 'server.key'}\n"
        "ssl_options.verify = verify_none\n"
        # Quorum queues keep three of these in memory; the default is 512 MB.
        "raft.wal_max_size_bytes = 32000000\n"
    )


def rabbitmq_command(layout):
    """The server itself: the one in /usr/sbin is a wrapper that wants the user `rabbitmq`."""
    return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]


def rabbitmq_environment(layout):
    """Everything that RabbitMQ reads from its environment, so that nothing of it lands outside the lab."""
    state, etc = layout.state / "rabbitmq", layout.etc / "rabbitmq"
    return {
        "HOME": state,
        "RABBITMQ_HOME": "/usr/lib/rabbitmq",
        "RABBITMQ_NODENAME": f"lab{layout.port_base}@localhost",
        "RABBITMQ_DIST_PORT": layout.port("erlang"),
        "ERL_EPMD_PORT": layout.port("epmd"),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "RABBITMQ_CONF_ENV_FILE": etc / "no-environment-file",
        "RABBITMQ_CONFIG_FILE": etc / "rabbitmq.conf",
        "RABBITMQ_ADVANCED_CONFIG_FILE": etc / "advanced.config",
        "RABBITMQ_ENABLED_PLUGINS_FILE": etc / "enabled_plugins",
        "RABBITMQ_MNESIA_BASE": state / "mnesia",
        "RABBITMQ_LOG_BASE": layout.log,
        "RABBITMQ_PID_FILE": state / "pid",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
    }


def epmd_command(layout):
    """Erlang's name service, as a daemon of ours: started by RabbitMQ it would outlive the lab."""
    return ["epmd", "-address", LOOPBACK, "-port", layout.port("epmd")]
