"""What keeps strangers out of a running server: tokens, TLS, hosts, origins, rates and signatures, by real requests."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.device.test_serve import FAST, TIMEOUT_S, Server, UnixConnection, complaints

from edgekd_runtime import cli, signing
from edgekd_runtime.bundle import Bundle

TOKEN = "correct-horse-battery-staple"
BEARER = {"authorization": f"Bearer {TOKEN}"}


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, Any, http.client.HTTPResponse]:
    """Status, JSON and the rest of the answer; a POST sends a text."""
    body = b"where is my parcel?" if method == "POST" else None
    connection.request(method, path, body, {"content-type": "text/plain"} | (headers or {}))
    response = connection.getresponse()
    return response.status, json.loads(response.read() or b"null"), response


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``token``; ``cert.pem`` with ``key.pem`` of 127.0.0.1 and localhost."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "token").write_text(TOKEN)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    encrypted = key.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"secret"))
    (folder / "encrypted.pem").write_bytes(encrypted)
    for path in folder.iterdir():
        path.chmod(0o600)
    return folder


@pytest.fixture(scope="module", params=[(), FAST], ids=["installed", "pure-python"])
def server(
    request: pytest.FixtureRequest, bundle_path: Path, secrets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    arguments = ("--port", "0", "--uds", folder / "socket", "--token-file", secrets / "token")
    server = Server(folder / "log", bundle_path, *arguments, without=request.param)
    yield server
    assert server.stop() == 0
    said = (folder / "log").read_text()
    assert not {secret for secret in (TOKEN, "Bearer", "wrong-token", "parcel") if secret in said}
    assert {re.sub(r"=\S+", "", line.split(maxsplit=2)[2]) for line in complaints(said)} == {
        "refused status client path unsaid"
    }
    assert said.count("status=401") == 1  # of more than fifty, all within ten seconds


@pytest.fixture
def classify(bundle: Bundle) -> str:
    return f"/v1/models/{bundle.name}:classify"


# --- tokens ---


def test_nothing_is_answered_without_the_token(server: Server, bundle: Bundle, classify: str) -> None:
    paths = ("/v2", f"/v2/models/{bundle.name}", "/metrics", "/nothing", classify, f"/v2/models/{bundle.name}/infer")
    for path in paths:
        for method in ("GET", "POST", "PUT", "OPTIONS"):
            for headers in ({}, {"authorization": "Bearer wrong-token-of-some-length"}):
                status, body, response = ask(server.connection(), method, path, headers)
                assert (status, set(body)) == (401, {"error"}), (method, path)
                assert response.headers["www-authenticate"] == 'Bearer realm="edgekd"'
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert ask(server.connection(), "GET", path)[0] == 200


def test_the_token_opens_it_and_is_asked_with_every_request(server: Server, classify: str) -> None:
    """One connection: a head that was let in, and is remembered, must not let in the next."""
    connection = server.connection()
    for _ in range(3):
        assert ask(connection, "POST", classify, BEARER)[0] == 200
    assert ask(connection, "POST", classify)[0] == 401
    assert ask(server.connection(), "POST", classify, BEARER)[0] == 200


def test_a_unix_socket_asks_for_none(server: Server, classify: str) -> None:
    assert ask(UnixConnection(server._log.parent / "socket"), "POST", classify)[0] == 200


# --- hosts and origins ---


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"host": "evil.example:8080", **BEARER}])
def test_a_rebound_name_gets_no_answer(server: Server, classify: str, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/v2/health/live"), ("GET", "/"), ("POST", classify)):
        status, body, _ = ask(server.connection(), method, path, headers)
        assert (status, "--allow-host" in body["error"]) == (421, True)


def test_no_page_of_others_may_ask_and_no_cors_header_is_sent(server: Server, classify: str) -> None:
    origin = {"origin": "https://evil.example"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    for method, headers in (("POST", BEARER | origin), ("OPTIONS", origin | asked), ("GET", BEARER | origin)):
        status, _, response = ask(server.connection(), method, classify, headers)
        assert status == 403
        assert not [name for name in response.headers if name.lower().startswith("access-control")]
    own = {"origin": f"http://127.0.0.1:{server.port}"}
    status, _, response = ask(server.connection(), "POST", classify, BEARER | own)
    assert status == 200
    assert not [name for name in response.headers if name.lower().startswith("access-control")]


# --- TLS and rates ---


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.filterwarnings("ignore:.*TLSv1_1:DeprecationWarning")
def test_tls_and_rates(bundle_path: Path, secrets: Path, tmp_path: Path, classify: str, processes: str) -> None:
    arguments = ("--port", "0", "--uds", tmp_path / "socket", "--rate-limit", "5", "--processes", processes)
    certificate = ("--tls-cert", secrets / "cert.pem", "--tls-key", secrets / "key.pem")
    server = Server(tmp_path / "log", bundle_path, *arguments, *certificate)
    try:
        assert f"on https://127.0.0.1:{server.port} " in server.announced
        context = ssl.create_default_context(cafile=secrets / "cert.pem")
        client = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=TIMEOUT_S, context=context)
        status, body, _ = ask(client, "POST", classify)
        assert (status, bool(body["label"])) == (200, True)
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() in ("TLSv1.2", "TLSv1.3")
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(server.connection(), "GET", "/v2/health/live")  # in the clear
        old = ssl.create_default_context(cafile=secrets / "cert.pem")
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError, match=r"(?i)protocol|version|alert"):
            ask(http.client.HTTPSConnection("127.0.0.1", server.port, context=old), "GET", "/v2")

        answers = [ask(client, "GET", "/v2/health/live") for _ in range(30)]
        refused = [answer for answer in answers if answer[0] == 429]
        assert {answer[0] for answer in answers} == {200, 429}
        assert int(refused[0][2].headers["retry-after"]) == 1
        unix = UnixConnection(tmp_path / "socket")  # in the clear, not counted
        assert {ask(unix, "POST", classify)[0] for _ in range(30)} == {200}
        time.sleep(1.1)
        assert ask(client, "GET", "/v2/health/live")[0] == 200
    finally:
        assert server.stop() == 0


def serve(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli.main, ["serve", *map(str, arguments)], env={"EDGEKD_TOKEN": None} | (env or {}))


def test_what_can_be_wrong_is_one_line(bundle_path: Path, secrets: Path, tmp_path: Path) -> None:
    for name in ("token", "key.pem"):
        (tmp_path / name).write_bytes((secrets / name).read_bytes())
        (tmp_path / name).chmod(0o644)
    cert, key = secrets / "cert.pem", secrets / "key.pem"
    for arguments, said in (
        (("--token-file", tmp_path / "token"), "chmod 600"),
        (("--token-file", tmp_path / "none"), "No such file"),
        (("--tls-cert", cert, "--tls-key", tmp_path / "key.pem"), "chmod 600"),
        (("--tls-cert", cert, "--tls-key", tmp_path / "none"), "No such file"),
        (("--tls-cert", tmp_path / "none", "--tls-key", key), "no such file"),
        (("--tls-cert", cert), "no certificate with its key"),
        (("--tls-cert", cert, "--tls-key", secrets / "token"), "no certificate with its key"),
        (("--tls-cert", secrets / "token", "--tls-key", key), "no certificate with its key"),
        (("--tls-cert", cert, "--tls-key", secrets / "encrypted.pem"), "the key is encrypted"),
        (("--require-signature",), "add --public-key FILE"),
        (("--public-key", secrets / "token"), "not a public key"),
    ):
        done = serve(bundle_path, "--port", "0", *arguments)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1), (arguments, done.stderr)
        assert said in done.stderr, arguments
    for usage in (("--tls-key", key), ("--allow-host", "a b"), ("--allow-host", "http://a"), ("--rate-limit", "0")):
        assert serve(bundle_path, *usage).exit_code == 2


def test_a_remote_address_wants_a_token_or_a_flag(tmp_path: Path, secrets: Path) -> None:
    none = tmp_path / "none.edgekd"
    assert "--token-file or $EDGEKD_TOKEN" in serve(none, "--host", "0.0.0.0").stderr
    for arguments, env in (
        (("--token-file", secrets / "token"), {}),
        ((), {"EDGEKD_TOKEN": TOKEN}),
        (("--allow-remote",), {}),
    ):
        done = serve(none, "--host", "0.0.0.0", *arguments, env=env)
        assert (done.exit_code, f"{none}: no such file" in done.stderr) == (1, True)
        assert ("in the clear" in done.stderr) == (arguments != ("--allow-remote",))
    assert "one token of 16 to 512" in serve(none, "--host", "0.0.0.0", env={"EDGEKD_TOKEN": "short"}).stderr


# --- signatures ---


def test_only_signed_bundles_are_served(bundle_path: Path, tmp_path: Path) -> None:
    signing.generate(tmp_path / "key")
    signed = tmp_path / "signed.edgekd"
    signing.sign(bundle_path, signing.read_private(tmp_path / "key"), signed)
    trusted = ("--require-signature", "--public-key", tmp_path / "key.pub")
    for verb, more in (("serve", ("--port", "0")), ("info", ()), ("infer", ("--text", "a")), ("bench", ())):
        done = CliRunner().invoke(cli.main, [verb, str(bundle_path), *map(str, (*more, *trusted))])
        assert (done.exit_code, done.stdout) == (1, "")
        assert "is not signed; sign it" in done.stderr
    described = CliRunner().invoke(cli.main, ["info", str(signed), "--json", *map(str, trusted)])
    assert json.loads(described.stdout)["signed_by"] == signing.key_id(signing.read_public(tmp_path / "key.pub"))
    server = Server(tmp_path / "log", signed, "--port", "0", *trusted)
    assert ask(server.connection(), "GET", "/v2/health/ready")[0] == 200
    assert server.stop() == 0


def test_a_reload_trusts_no_more_than_the_start(bundle_path: Path, bundle: Bundle, tmp_path: Path) -> None:
    """An unsigned bundle is refused before it is tried: a trial would run it."""
    signing.generate(tmp_path / "key")
    served = tmp_path / "models" / f"{bundle.name}.edgekd"
    served.parent.mkdir()
    signing.sign(bundle_path, signing.read_private(tmp_path / "key"), served)
    trusted = ("--require-signature", "--public-key", tmp_path / "key.pub")
    server = Server(tmp_path / "log", "--model-dir", served.parent, "--port", "0", *trusted)
    try:
        replace(bundle, model=b"runs amok").save(served)
        connection = server.connection()
        connection.request("POST", f"/v2/repository/models/{bundle.name}/load", b"{}")
        response = connection.getresponse()
        assert response.status >= 400
        assert "is not signed" in json.loads(response.read())["error"]
        assert ask(server.connection(), "POST", f"/v1/models/{bundle.name}:classify")[0] == 200
    finally:
        assert server.stop() == 0
