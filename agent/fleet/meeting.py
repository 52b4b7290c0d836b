"""Why a scheduler cannot be met: nothing listens there, or the certificates do not agree. Dask says neither."""

from __future__ import annotations

import socket
import ssl

from agent.errors import PreconditionError
from agent.fleet.security import CA, CERTIFICATE, KEY, Endpoint

ANSWER_SECONDS = 5.0  # for each step of the handshake
OPEN = "it does not speak TLS: it was started with `--insecure`, or is no scheduler"
CLOSED = "it requires a certificate"


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
    except TimeoutError:
        return "", ""
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not of the authority in {CA}: {error.verify_message}", same
    except ssl.SSLError as error:
        refused = "ALERT" in (error.reason or "")
        if where.tls is None:
            return (CLOSED, same) if refused else ("", "")
        return ("it does not accept this certificate", same) if refused else (OPEN, "start it with `--tls DIR`, too")
    except OSError:  # it hung up
        return "", ""
    return (CLOSED, same) if where.tls is None else ("", "")
