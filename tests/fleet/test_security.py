"""Who may speak to a fleet."""

from __future__ import annotations

import datetime
import resource
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from agent.errors import PreconditionError, UsageError
from agent.fleet import security
from agent.fleet.cluster import Cluster
from agent.fleet.local import local_stations
from agent.fleet.security import Endpoint, endpoint, make_certificates, require_closed


@pytest.mark.quick
def test_certificates_are_readable_by_the_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    make_certificates(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "ca.pem": 0o600,
        "certificate.pem": 0o600,
        "key.pem": 0o600,
    }
    with pytest.raises(PreconditionError, match="has certificates already"):
        make_certificates(folder)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "key.pem").symlink_to(tmp_path / "nowhere")
    with pytest.raises(PreconditionError, match="has certificates already"):
        make_certificates(linked)
    assert [each.name for each in linked.iterdir()] == ["key.pem"]
    (folder / "key.pem").chmod(0o644)
    with pytest.raises(PreconditionError, match="readable by other users"):
        endpoint("studio", folder, insecure=False)
    (folder / "key.pem").unlink()
    with pytest.raises(PreconditionError, match=r"has no key\.pem"):
        endpoint("studio", folder, insecure=False)


@pytest.mark.quick
@pytest.mark.parametrize("name", ["ca.pem", "certificate.pem", "key.pem"])
@pytest.mark.parametrize("damage", ["empty", "half", "other"])
def test_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / "fleet" / name
    make_certificates(path.parent)
    require_closed(path.parent, insecure=False)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "other": b"\x00\xff" * 100}[damage])
    what = r"not the key of certificate\.pem" if name == "key.pem" else "not a certificate"
    with pytest.raises(PreconditionError, match=rf"{name} is {what}$"):
        require_closed(path.parent, insecure=False)
    with pytest.raises(PreconditionError, match=rf"{name} is {what}$"):
        endpoint("studio", path.parent, insecure=False)


@pytest.mark.quick
@pytest.mark.parametrize("given", [True, False], ids=["folder of the user", "new folder"])
def test_certificates_that_cannot_be_written_leave_nothing(tmp_path: Path, given: bool) -> None:
    folder = tmp_path / "fleet"
    if given:
        folder.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes of a file, fewer than each of them has
    try:
        with pytest.raises(OSError, match="File too large"):
            make_certificates(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [*tmp_path.iterdir()] == [folder] * given
    assert not given or not [*folder.iterdir()]
    make_certificates(folder)


@pytest.mark.quick
def test_key_of_another_certificate_or_with_a_password_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_certificates(tmp_path / name)
    own, other = tmp_path / "one" / "key.pem", tmp_path / "two" / "key.pem"
    key = serialization.load_pem_private_key(own.read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    for content in (other.read_bytes(), locked):
        own.write_bytes(content)
        with pytest.raises(PreconditionError, match=r"key\.pem is not the key of certificate\.pem"):
            require_closed(tmp_path / "one", insecure=False)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("expired", "certificate has expired"),
        ("early", "certificate is not yet valid"),
        ("mixed", "unable to get local issuer certificate|certificate signature failure"),
    ],
)
def test_certificate_that_no_machine_would_accept_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    """Dask would blame the connection, and a station would wait for ever."""
    if name == "expired":
        monkeypatch.setattr(security, "DAYS", 0.5)
    if name == "early":
        monkeypatch.setattr(security, "VALID_BEFORE", datetime.timedelta(days=-2))
    folder = tmp_path / "fleet"
    make_certificates(folder)
    if name == "mixed":
        make_certificates(tmp_path / "other")
        (folder / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    for check in (lambda: require_closed(folder, insecure=False), lambda: endpoint("studio", folder, insecure=False)):
        with pytest.raises(PreconditionError, match=rf"other machines would not accept .*certificate\.pem: ({why})"):
            check()


@pytest.mark.quick
def test_addresses_beyond_this_machine_need_certificates(tmp_path: Path) -> None:
    make_certificates(tmp_path / "fleet")
    tls = tmp_path / "fleet"
    assert endpoint("127.0.0.1:99", None, insecure=False) == Endpoint("tcp://127.0.0.1:99", None)
    assert endpoint("tcp://[::1]:99", None, insecure=False) == Endpoint("tcp://[::1]:99", None)
    assert endpoint("localhost", None, insecure=False) == Endpoint("tcp://localhost:8786", None)
    assert endpoint("tcp://studio.local", tls, insecure=False) == Endpoint("tls://studio.local:8786", tls)
    assert endpoint("studio.local", None, insecure=True) == Endpoint("tcp://studio.local:8786", None)
    for address in ("studio.local", "tcp://10.0.0.1:8786", "0.0.0.0", "tls://localhost"):
        with pytest.raises(PreconditionError) as refused:
            endpoint(address, None, insecure=False)
        assert "--make-certificates" in refused.value.hint
    for address in ("", "http://studio", "studio:0", "studio:99999", "a b", "tcp://"):
        with pytest.raises(UsageError):
            endpoint(address, None, insecure=True)


def test_scheduler_refuses_who_has_no_certificate_or_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    make_certificates(tmp_path / "other")
    with local_stations(1, tmp_path) as fleet:
        with pytest.raises(PreconditionError, match="cannot connect to the scheduler"):
            Cluster.connect(fleet.address.replace("tls", "tcp"))
        with pytest.raises(PreconditionError, match="cannot connect to the scheduler"):
            Cluster.connect(fleet.address, tmp_path / "other")
        cluster = Cluster.connect(fleet.address, fleet.tls)
        assert len(cluster.stations()) == 1
        cluster.close()
