"""Who may speak to the cluster: whoever holds its certificate. Dask runs the code that it is sent."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import PreconditionError, UsageError
from agent.system.hosts import PORT, is_loopback
from agent.system.invocation import here, typed

if TYPE_CHECKING:
    from distributed.security import Security

# Also on loopback, which a run with network access reaches.
OPEN = (
    "the scheduler has no certificates, so candidates whose runs have network access can connect to it and run code as "
    "you outside of their rooms; `--tls DIR` prevents that"
)
CA, CERTIFICATE, KEY = "ca.pem", "certificate.pem", "key.pem"
DAYS = 3650  # a fleet whose certificates expire at night is worth less than one whose certificates are replaced by hand
VALID_BEFORE = datetime.timedelta(days=1)  # clocks differ
ADDRESS = re.compile(r"(?:(?P<scheme>[a-z]+)://)?(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?/?")

ANSWER_SECONDS = 5.0  # for each step of the handshake
NO_TLS = "it does not speak TLS: it was started with `--insecure`, or is no scheduler"
# OpenSSL's reasons for bytes that are not of TLS.
PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE")
NEEDS_TLS = "it requires a certificate"


@dataclass(frozen=True)
class Endpoint:
    """The address of a scheduler, and the folder of the certificates; None for an open connection."""

    address: str
    tls: Path | None


def endpoint(address: str, tls: Path | None, *, insecure: bool) -> Endpoint:
    """Check the address of a scheduler.

    Args:
        address: `tcp://HOST:PORT`, `tls://HOST:PORT` or `HOST`.
        tls: the folder of `make_certificates`.
        insecure: allow an open connection beyond this machine.

    Raises:
        UsageError: it is not an address.
        PreconditionError: it leads to another machine without certificates, or they are missing.
    """
    found = ADDRESS.fullmatch(address.strip())
    if found is None or found["scheme"] not in (None, "tcp", "tls") or not 0 < int(found["port"] or PORT) < 65536:
        raise UsageError(f"'{address}' is not an address of a scheduler", hint=f"give it as `tcp://HOST:{PORT}`")
    where = f"{found['host']}:{found['port'] or PORT}"
    if tls is not None:
        _require_certificates(tls)
        return Endpoint(f"tls://{where}", tls)
    if found["scheme"] == "tls":
        raise PreconditionError(
            f"{address} needs certificates", hint=f"give their folder with `--tls DIR`; {_how_to_make()}"
        )
    if not is_loopback(found["host"]):
        require_closed(tls, insecure=insecure)
    return Endpoint(f"tcp://{where}", None)


def require_closed(tls: Path | None, *, insecure: bool) -> None:
    """Raise PreconditionError if other machines would be let in without certificates, or if those are missing."""
    if tls is not None:
        _require_certificates(tls)
    elif not insecure:
        raise PreconditionError(
            "without certificates, whoever reaches the scheduler can run commands on every station",
            hint=f"{_how_to_make()} and give it with `--tls DIR`; on a network that you trust, use `--insecure`",
        )


def security(tls: Path | None) -> Security:
    """Return what Dask needs to speak only to holders of the certificates in `tls`; None speaks to anyone."""
    from distributed.security import Security

    if tls is None:
        return Security(require_encryption=False)
    names = {"tls_ca_file": str(tls / CA)}
    for role in ("client", "scheduler", "worker"):
        names |= {f"tls_{role}_cert": str(tls / CERTIFICATE), f"tls_{role}_key": str(tls / KEY)}
    return Security(require_encryption=True, **names)


def require_agreement(where: Endpoint) -> None:
    """Check that a scheduler listens at an address, and that it and this machine accept each other's certificates.

    Raises:
        OSError: nothing listens there.
        PreconditionError: they do not.
    """
    host, _, port = where.address.partition("//")[2].rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as connection:
        why, hint = _disagreement(connection, where)
    if why:
        raise PreconditionError(f"cannot connect to the scheduler at {where.address}: {why}", hint=hint)


def _disagreement(connection: socket.socket, where: Endpoint) -> tuple[str, str]:
    """Return why both do not agree, and what fixes it; empty if they do, or if it does not answer in time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    same = "copy the folder of the certificates from its machine, and give it with `--tls DIR`"
    if where.tls is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(where.tls / CA)
        context.load_cert_chain(where.tls / CERTIFICATE, where.tls / KEY, password=str)
    try:
        context.wrap_socket(connection).close()
    # Something between may answer for a scheduler that is not there yet.
    except (TimeoutError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return "", ""
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not of the authority in {CA}: {error.verify_message}", same
    except ssl.SSLError as error:
        refused = "ALERT" in (error.reason or "")
        if where.tls is None:
            return (NEEDS_TLS, same) if refused else ("", "")
        if refused:
            return "it does not accept this certificate", same
        return (NO_TLS, "start it with `--tls DIR`, too") if error.reason in PLAIN else ("", "")
    except OSError:  # it hung up
        return "", ""
    return (NEEDS_TLS, same) if where.tls is None else ("", "")


def make_certificates(folder: Path) -> None:
    """Write a new authority, and a certificate with its key that all machines of a fleet share.

    The authority's own key is not written, so that no other certificate can be made.

    Raises:
        PreconditionError: the folder has certificates already.
        OSError: they cannot be written. Then none is left.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    if any(os.path.lexists(folder / name) for name in (CA, CERTIFICATE, KEY)):
        raise PreconditionError(f"{folder} has certificates already", hint="delete them first, or give another folder")
    now = datetime.datetime.now(datetime.UTC) - VALID_BEFORE
    until = now + datetime.timedelta(days=DAYS)
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "autoresearch fleet")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "autoresearch station")])
    signer = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    texts = {}
    for name, of, key in ((CA, issuer, authority), (CERTIFICATE, subject, own)):
        builder = x509.CertificateBuilder(issuer, of, key.public_key(), x509.random_serial_number(), now, until)
        signs = key is authority
        usage = x509.KeyUsage(not signs, False, False, False, False, signs, signs, False, False)
        made = (
            builder.add_extension(x509.BasicConstraints(signs, 0 if signs else None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer), critical=False)
            .sign(authority, hashes.SHA256())
        )
        texts[name] = made.public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    texts[KEY] = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    with contextlib.ExitStack() as failed:
        if not folder.is_dir():
            folder.mkdir(parents=True, mode=0o700)
            failed.callback(_gone_if_empty, folder)
        for name, content in texts.items():
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            failed.callback((folder / name).unlink, missing_ok=True)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        failed.pop_all()


def _gone_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another process uses it
        folder.rmdir()


def _require_certificates(folder: Path) -> None:
    missing = [name for name in (CA, CERTIFICATE, KEY) if not (folder / name).is_file()]
    if missing:
        raise PreconditionError(f"{here(folder)} has no {', '.join(missing)}", hint=_how_to_make())
    if (folder / KEY).stat().st_mode & 0o077:
        key = here(folder / KEY)
        raise PreconditionError(f"{key} is readable by other users", hint=f"run `chmod 600 {key}`")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in (CA, CERTIFICATE):
        with _sound(folder / name, "not a certificate"):
            context.load_verify_locations(folder / name)
    with _sound(folder / KEY, f"not the key of {CERTIFICATE}"):
        # With an empty password, because OpenSSL asks for one on the terminal.
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY, password=str)
    try:
        _shake_hands(folder)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or str(error)
        raise PreconditionError(
            f"other machines would not accept {here(folder / CERTIFICATE)}: {why}",
            hint=f"compare the clock and {CA} with those of another machine, or {_how_to_make()}",
        ) from None


def _shake_hands(folder: Path) -> None:
    """Let two machines with these files meet, in memory. Raises SSLError if one does not trust the other."""
    wires = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = []
    for protocol, (incoming, outgoing) in ((ssl.PROTOCOL_TLS_CLIENT, wires), (ssl.PROTOCOL_TLS_SERVER, wires[::-1])):
        context = ssl.SSLContext(protocol)
        context.check_hostname, context.verify_mode = False, ssl.CERT_REQUIRED
        context.load_verify_locations(folder / CA)
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY, password=str)
        ends.append(context.wrap_bio(incoming, outgoing, server_side=protocol == ssl.PROTOCOL_TLS_SERVER))
    for end in ends * 2:  # each speaks twice: a greeting, and its certificate
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()


@contextlib.contextmanager
def _sound(path: Path, what: str) -> Iterator[None]:
    """Raise PreconditionError if a file cannot be loaded in the block. Dask would blame the connection or the port."""
    try:
        yield
    except OSError as error:
        why = "" if isinstance(error, ssl.SSLError) else f": {error.strerror}"
        hint = f"copy the folder again, or {_how_to_make()}"
        raise PreconditionError(f"{here(path)} is {what}{why}", hint=hint) from None


def _how_to_make() -> str:
    return f"make them with `{typed('station --make-certificates DIR')}`, copy the folder to each machine"
