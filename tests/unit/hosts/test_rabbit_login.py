"""Whether a broker lets us in: over TLS as the URL or nova.conf says, and what it means when it does not."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest
from oslo_config import cfg
from oslo_messaging._drivers import impl_rabbit

from cellmove.core.errors import CannotConnect
from cellmove.hosts import rabbit_login

ACCESS_REFUSED, NOT_ALLOWED = 403, 530


@pytest.fixture
def conf() -> Any:
    made = cfg.ConfigOpts()
    made([])
    made.register_opts(impl_rabbit.rabbit_opts, rabbit_login.GROUP)
    return made


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed one for localhost, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for localhost, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    address = x509.IPAddress(ipaddress.ip_address("::1"))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), address])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    paths = folder / "broker.crt", folder / "broker.key"
    paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def frame(class_id: int, method_id: int, arguments: bytes) -> bytes:
    """A method frame of AMQP 0-9-1 on channel 0."""
    payload = struct.pack(">HH", class_id, method_id) + arguments
    return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


def greet(connection: socket.socket) -> None:
    """Greet as RabbitMQ does, and take the login."""
    connection.recv(8)
    mechanisms = b"AMQPLAIN PLAIN EXTERNAL"
    words = struct.pack(">BBII", 0, 9, 0, len(mechanisms)) + mechanisms + struct.pack(">I", 5) + b"en_US"
    connection.sendall(frame(10, 10, words))
    connection.recv(4096)


def refuse(connection: socket.socket, code: int) -> None:
    """Greet, take the login and close the connection with a code."""
    greet(connection)
    connection.sendall(frame(10, 50, struct.pack(">HBHH", code, 0, 0, 0)))
    connection.recv(4096)


def accept(connection: socket.socket) -> None:
    """Greet, take the login, open the virtual host, and take the farewell."""
    greet(connection)
    connection.sendall(frame(10, 30, struct.pack(">HIH", 9, 4096, 0)))
    connection.recv(4096)  # tune-ok, and open, perhaps in two parts
    connection.sendall(frame(10, 41, b"\0"))
    while data := connection.recv(4096):
        if frame(10, 50, b"")[7:11] in data:
            connection.sendall(frame(10, 51, b""))


@contextmanager
def broker(
    then: Callable[[socket.socket], None], certificate: tuple[Path, Path] | None = None, client_ca: Path | None = None,
    family: socket.AddressFamily = socket.AF_INET,
) -> Iterator[int]:  # fmt: skip
    """Something that listens once; gives its port.

    :param client_ca: insist on a client certificate that it vouches for
    """
    with socket.create_server(("::1" if family is socket.AF_INET6 else "localhost", 0), family=family) as server:
        server.settimeout(5)

        def serve() -> None:
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(5)
                    if certificate is None:
                        then(connection)
                        return
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(*certificate)
                    if client_ca is not None:
                        context.verify_mode = ssl.CERT_REQUIRED
                        context.load_verify_locations(client_ca)
                    with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as wrapped:
                        try:
                            wrapped.do_handshake()
                        except ssl.SSLError:
                            socket.socket.recv(
                                wrapped, 4096
                            )  # unread data would reset the connection: no alert arrives
                            return
                        then(wrapped)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join(10)


def error_of(conf: Any, url: str, timeout: float = 3.0) -> str:
    """What logging in came to."""
    with pytest.raises(CannotConnect) as caught:
        rabbit_login.log_in(oslo_messaging.TransportURL.parse(conf, url), conf, timeout)
    assert "secret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [(ACCESS_REFUSED, "the user name or password is refused"), (NOT_ALLOWED, "no access to the virtual host cell1")],
)
@pytest.mark.parametrize("tls", [False, True])
def test_a_login_is_tried_over_tls_as_well(
    conf: Any, certificate: tuple[Path, Path], tls: bool, code: int, words: str
) -> None:
    query = f"?ssl=1&ssl_ca_file={certificate[0]}" if tls else ""
    with broker(lambda connection: refuse(connection, code), certificate if tls else None) as port:
        assert error_of(conf, f"rabbit://nova:secret@localhost:{port}/cell1{query}") == f"localhost:{port}: {words}"


def test_a_certificate_that_nobody_vouches_for(conf: Any, certificate: tuple[Path, Path]) -> None:
    with broker(lambda connection: refuse(connection, ACCESS_REFUSED), certificate) as port:
        words = error_of(conf, f"rabbit://nova:secret@localhost:{port}/?ssl=1")
    assert "TLS: its certificate is not accepted: self" in words


def test_a_certificate_of_another_host(conf: Any, certificate: tuple[Path, Path]) -> None:
    with broker(lambda connection: refuse(connection, ACCESS_REFUSED), certificate) as port:
        words = error_of(conf, f"rabbit://nova:secret@127.0.0.1:{port}/?ssl=1&ssl_ca_file={certificate[0]}")
    assert "IP address mismatch" in words


def test_a_file_that_is_not_there(conf: Any) -> None:
    with broker(lambda connection: refuse(connection, ACCESS_REFUSED)) as port:
        words = error_of(conf, f"rabbit://nova:secret@localhost:{port}/?ssl=1&ssl_ca_file=/nowhere/ca.pem")
    assert words.endswith("TLS: /nowhere/ca.pem: No such file or directory")


def test_tls_to_a_broker_without(conf: Any) -> None:
    def as_rabbitmq_does(connection: socket.socket) -> None:
        connection.recv(8)
        connection.sendall(b"AMQP\x00\x00\x09\x01")

    with broker(as_rabbitmq_does) as port:
        assert "TLS" in error_of(conf, f"rabbit://nova:secret@localhost:{port}/?ssl=true")


def test_plain_words_to_a_broker_with_tls(conf: Any, certificate: tuple[Path, Path]) -> None:
    with broker(lambda connection: refuse(connection, ACCESS_REFUSED), certificate) as port:
        assert "ssl=1" in error_of(conf, f"rabbit://nova:secret@localhost:{port}/")


def test_nobody_listens_and_nobody_answers(conf: Any) -> None:
    with socket.create_server(("localhost", 0), family=socket.AF_INET) as server:
        silent, _, gone = server.getsockname()[1], server.listen(1), 9
        words = error_of(conf, f"rabbit://nova:secret@localhost:{silent},nova:secret@localhost:{gone}/", timeout=0.3)
    assert words == f"localhost:{silent}: it does not answer in time; localhost:{gone}: Connection refused"


@pytest.mark.parametrize("own", [False, True])
def test_a_client_certificate_that_is_missing_or_not_accepted(
    conf: Any, certificate: tuple[Path, Path], tmp_path: Path, own: bool
) -> None:
    query = f"?ssl=1&ssl_ca_file={certificate[0]}"
    if own:
        cert, key = make_certificate(tmp_path)
        query += f"&ssl_cert_file={cert}&ssl_key_file={key}"
    with broker(accept, certificate, client_ca=certificate[0]) as port:
        words = error_of(conf, f"rabbit://nova:secret@localhost:{port}/{query}")
    assert "the client certificate" in words
    assert "TLS" in words


def garble(connection: socket.socket) -> None:
    """Answer with a Connection.Start that ends too early."""
    connection.recv(8)
    connection.sendall(frame(10, 10, b"\0"))
    connection.recv(4096)


def test_a_broker_that_does_not_speak_amqp_is_refused_alone_and_beside_others(conf: Any) -> None:
    with broker(garble) as port:
        words = error_of(conf, f"rabbit://nova:secret@localhost:{port}/")
    assert words == f"localhost:{port}: it does not speak AMQP (error)"
    with broker(garble) as one, broker(garble) as two:
        words = error_of(conf, f"rabbit://nova:secret@localhost:{one},nova:secret@localhost:{two}/")
    assert words.count("it does not speak AMQP") == 2
    with broker(garble) as one, broker(accept) as two:
        assert log_in(conf, f"rabbit://nova:secret@localhost:{one},nova:secret@localhost:{two}/") == f"localhost:{two}"


def test_a_client_certificate_that_is_accepted(conf: Any, certificate: tuple[Path, Path]) -> None:
    query = f"?ssl=1&ssl_ca_file={certificate[0]}&ssl_cert_file={certificate[0]}&ssl_key_file={certificate[1]}"
    with broker(accept, certificate, client_ca=certificate[0]) as port:
        assert log_in(conf, f"rabbit://nova:secret@localhost:{port}/{query}") == f"localhost:{port}"


def log_in(conf: Any, url: str, **more: Any) -> str:
    """The broker that let us in."""
    return rabbit_login.log_in(oslo_messaging.TransportURL.parse(conf, url), conf, 3.0, **more)


def test_a_silent_broker_does_not_delay_the_login_to_another(conf: Any) -> None:
    with socket.create_server(("localhost", 0), family=socket.AF_INET) as silent, broker(accept) as port:
        silent.listen(1)
        url = f"rabbit://nova:secret@localhost:{silent.getsockname()[1]},nova:secret@localhost:{port}/"
        parsed = oslo_messaging.TransportURL.parse(conf, url)
        assert rabbit_login.log_in(parsed, conf, 600.0) == f"localhost:{port}"


def test_the_broker_that_answered_last_is_tried_alone(conf: Any) -> None:
    with broker(accept) as port, socket.create_server(("localhost", 0), family=socket.AF_INET) as server:
        server.settimeout(0.2)
        url = f"rabbit://nova:secret@localhost:{server.getsockname()[1]},nova:secret@localhost:{port}/"
        assert log_in(conf, url, preferred=f"localhost:{port}") == f"localhost:{port}"
        with pytest.raises(TimeoutError):
            server.accept()


def test_an_ipv6_broker_is_named_in_brackets(conf: Any) -> None:
    assert error_of(conf, "rabbit://nova:secret@[::1]:9/") == "[::1]:9: Connection refused"


def test_an_ipv6_broker_lets_us_in_over_tls(conf: Any, certificate: tuple[Path, Path]) -> None:
    for tls in (False, True):
        query = f"?ssl=1&ssl_ca_file={certificate[0]}" if tls else ""
        with broker(accept, certificate if tls else None, family=socket.AF_INET6) as port:
            assert log_in(conf, f"rabbit://nova:secret@[::1]:{port}/{query}") == f"[::1]:{port}"


def test_one_of_several_brokers_is_down_or_refuses(conf: Any) -> None:
    for family, name in ((socket.AF_INET, "localhost"), (socket.AF_INET6, "[::1]")):
        with (
            broker(lambda connection: refuse(connection, ACCESS_REFUSED), family=family) as one,
            broker(accept, family=family) as two,
        ):
            hosts = ",".join(f"nova:secret@{name}:{port}" for port in (9, one, two))
            assert log_in(conf, f"rabbit://{hosts}/cell1") == f"{name}:{two}"


def test_the_login_method_is_the_one_of_the_options(conf: Any, certificate: tuple[Path, Path]) -> None:
    with broker(lambda connection: refuse(connection, ACCESS_REFUSED), certificate) as port:
        query = f"?ssl=1&ssl_ca_file={certificate[0]}&rabbit_login_method=EXTERNAL"
        words = error_of(conf, f"rabbit://nova:secret@localhost:{port}/{query}")
    assert words == f"localhost:{port}: the client certificate is refused as a login"


def test_what_the_url_says_goes_before_nova_conf(conf: Any) -> None:
    conf.set_override("ssl", True, rabbit_login.GROUP)
    conf.set_override("ssl_ca_file", "/etc/ca.pem", rabbit_login.GROUP)

    def options(url: str) -> Any:
        parsed = oslo_messaging.TransportURL.parse(conf, url)
        return rabbit_login.tls_options(parsed, conf, parsed.hosts[-1].hostname)

    verified = {"ca_certs": "/etc/ca.pem", "cert_reqs": ssl.CERT_REQUIRED}
    assert options("rabbit://u:p@h1/") == {**verified, "server_hostname": "h1"}
    assert options("rabbit://u:p@h1/?ssl=0") is None
    assert options("rabbit://u:p@h1/?ssl_enforce_hostname_verification=0") == verified
    several = options("rabbit://u:p@h1:5671,u:p@h2:5671//nova?ssl=1&ssl_version=TLSv1_2&ssl_ca_file=/ca")
    assert several == {
        "ca_certs": "/ca", "cert_reqs": ssl.CERT_REQUIRED, "ssl_version": ssl.PROTOCOL_TLSv1_2, "server_hostname": "h2"
    }  # fmt: skip
    conf.clear_override("ssl", rabbit_login.GROUP)
    assert options("rabbit://u:p@h1/") is None
    conf.clear_override("ssl_ca_file", rabbit_login.GROUP)
    # openstack-ansible, where oslomsg_rpc_ssl_ca_file is not set: nothing is verified.
    unverified = options("rabbit://u:p@h1:5671//nova?ssl=1&ssl_version=TLSv1_2&ssl_ca_file=")
    assert unverified == {"ssl_version": ssl.PROTOCOL_TLSv1_2}
