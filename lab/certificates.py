"""The lab's certificate authority, and the one certificate that its servers share."""

from lab import processes
from lab.layout import LOOPBACK

DAYS = 3650
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
AUTHORITY = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
SERVER = (
    "basicConstraints=critical,CA:FALSE",
    "keyUsage=critical,digitalSignature",
    "extendedKeyUsage=serverAuth",
    f"subjectAltName=IP:{LOOPBACK},IP:::1,DNS:localhost",
)


def make(layout):
    """Make both unless they are there. Elliptic curves: a handshake takes a tenth of what RSA takes."""
    folder = layout.certificates
    if (folder / "server.pem").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    request(folder, "ca", "lab CA", AUTHORITY)
    request(folder, "server", LOOPBACK, SERVER, "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key")


def request(folder, name, subject, extensions, *signer):
    """Make a key and its certificate, which the signer signs; without one it signs itself."""
    part = folder / f"{name}.part"
    added = [word for extension in extensions for word in ("-addext", extension)]
    processes.call(
        "openssl", "req", "-x509", *KEY, "-days", DAYS, "-subj", f"/CN={subject}", *added, *signer,
        "-keyout", folder / f"{name}.key", "-out", part,
    )  # fmt: skip
    part.rename(folder / f"{name}.pem")
