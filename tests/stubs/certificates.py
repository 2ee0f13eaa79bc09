"""Certificates for servers on this machine, which nobody has to trust but a test's own client."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class SelfMade:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""

    def __init__(self, name: str = "one") -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self._private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._private, hashes.SHA256())
        )

    @property
    def cert(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> bytes:
        return self._written(serialization.NoEncryption())

    @property
    def encrypted_key(self) -> bytes:
        return self._written(serialization.BestAvailableEncryption(b"secret"))

    def _written(self, encryption: serialization.KeySerializationEncryption) -> bytes:
        encoding, shape = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return self._private.private_bytes(encoding, shape, encryption)

    def write(self, folder: Path) -> dict[str, Path]:
        """Write both files and return the settings that name them."""
        cert, key = folder / "cert.pem", folder / "key.pem"
        cert.write_bytes(self.cert)
        key.write_bytes(self.key)
        return {"tls_cert": cert, "tls_key": key}

    def trusted(self) -> ssl.SSLContext:
        """Return what a client that trusts it alone connects with."""
        return ssl.create_default_context(cadata=self.cert.decode())
