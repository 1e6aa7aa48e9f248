"""An authority of a test's own, and the certificate that it signed for this machine."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


def write_certificates(folder: Path) -> None:
    """Write authority.pem, and cert.pem with key.pem for localhost and 127.0.0.1."""
    keys = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority, name = _name("authority of a test"), _name("localhost")
    signed = [_certificate(authority, authority, keys[0], keys[0], is_authority=True)]
    signed += [_certificate(name, authority, keys[1], keys[0], is_authority=False)]
    for file, certificate in zip(("authority.pem", "cert.pem"), signed, strict=True):
        (folder / file).write_bytes(certificate.public_bytes(PEM))
    form, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(keys[1].private_bytes(PEM, form, secret))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = x509.CertificateBuilder(
        issuer,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now - day,
        now + day,
    )
    builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(
        signer, hashes.SHA256()
    )
