"""Whether a broker lets us in: over TLS as the URL or nova.conf says, and what it means when it does not."""

from __future__ import annotations

import datetime
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

from cellmove.errors import CannotConnect
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
    """One for localhost that nobody has signed, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    folder = tmp_path_factory.mktemp("tls")
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


def refuse(connection: socket.socket, code: int) -> None:
    """Greet, take the login and close the connection with a code."""
    connection.recv(8)
    start = struct.pack(">BB", 0, 9) + struct.pack(">I", 0)
    connection.sendall(frame(10, 10, start + struct.pack(">I", 5) + b"PLAIN" + struct.pack(">I", 5) + b"en_US"))
    connection.recv(4096)
    connection.sendall(frame(10, 50, struct.pack(">HBHH", code, 0, 0, 0)))
    connection.recv(4096)


@contextmanager
def broker(then: Callable[[socket.socket], None], certificate: tuple[Path, Path] | None = None) -> Iterator[int]:
    """Something that listens once; gives its port."""
    with socket.create_server(("localhost", 0), family=socket.AF_INET) as server:
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
                    with context.wrap_socket(connection, server_side=True) as wrapped:
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


def test_what_the_url_says_goes_before_nova_conf(conf: Any) -> None:
    conf.set_override("ssl", True, rabbit_login.GROUP)
    conf.set_override("ssl_ca_file", "/etc/ca.pem", rabbit_login.GROUP)

    def options(url: str) -> Any:
        return rabbit_login.tls_options(oslo_messaging.TransportURL.parse(conf, url), conf)

    assert options("rabbit://u:p@h1/") == {
        "ca_certs": "/etc/ca.pem", "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "h1"
    }  # fmt: skip
    assert options("rabbit://u:p@h1/?ssl=0") is None
    several = options("rabbit://u:p@h1:5671,u:p@h2:5671//nova?ssl=1&ssl_version=TLSv1_2&ssl_ca_file=/ca")
    assert several == {"ca_certs": "/ca", "cert_reqs": ssl.CERT_REQUIRED, "ssl_version": ssl.PROTOCOL_TLSv1_2}
    conf.clear_override("ssl", rabbit_login.GROUP)
    assert options("rabbit://u:p@h1/") is None
