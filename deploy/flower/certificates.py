"""Make what SuperLink and SuperNodes identify themselves with: `certificates.py FOLDER SUPERLINK SUPERNODE...`.

`ca.crt` is for everybody, `server.crt` and `server.key` are the SuperLink's, `<node>` and `<node>.pub` a SuperNode's keys. What
is there already stays. The authority's own key is thrown away: to exchange the server's certificate, make all of them anew.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

VALID = timedelta(days=365)


def write(path: Path, blob: bytes) -> None:
    """Write a file that nobody else may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(blob)


def certificate(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a certificate for a server of that name (an authority, where it is its own issuer), PEM."""
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)]) for who in (name, issuer))
    names = [x509.DNSName(name), x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    builder = x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(datetime.now(UTC)).not_valid_after(datetime.now(UTC) + VALID)
    builder = builder.add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def main(folder: Path, server: str, nodes: list[str]) -> None:
    """Make what is not there yet."""
    if not (folder / "ca.crt").exists():
        authority, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
        write(folder / "server.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write(folder / "server.crt", certificate(server, key, "fedcosim", authority))
        write(folder / "ca.crt", certificate("fedcosim", authority, "fedcosim", authority))
    for node in nodes:
        if not (folder / node).exists():
            key = ec.generate_private_key(ec.SECP384R1())
            write(folder / f"{node}.pub", key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
            write(folder / node, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
