"""Real connections: TLS, and clients that take their time."""

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message
from uvicorn.server import ServerState

from server.config import ServerConfig
from server.health_check import is_alive
from server.http import read_body
from server.listen import PromptProtocol, tls_context, uvicorn_config
from tests.serving import serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2120))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


def test_with_a_certificate_the_server_speaks_https_alone(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    config = ServerConfig(tls_cert=str(cert), tls_key=str(key), size_px=256, steps=0)
    with serving(config) as url:
        assert url.startswith("https://")
        by_name = url.replace("127.0.0.1", "localhost")
        known = ssl.create_default_context(cafile=cert)
        with httpx.Client(base_url=by_name, verify=known) as client:
            shown = client.get("/")
        assert shown.status_code == 200
        assert shown.headers["Strict-Transport-Security"].startswith("max-age=")
        assert is_alive(url), "a health check needs no name"
        with pytest.raises(httpx.HTTPError):
            httpx.get(by_name.replace("https", "http"))


def test_a_certificate_that_cannot_be_used_is_named(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    for files in ((key, key), (cert, cert), (cert.with_name("gone"), key)):
        config = ServerConfig(tls_cert=str(files[0]), tls_key=str(files[1]))
        with pytest.raises(ValueError, match=f"no certificate with its key in {files[0]} and"):
            tls_context(config)
    assert tls_context(ServerConfig()) is None


class Hasty(PromptProtocol):
    """Has no patience, so that the tests need none."""

    headers_within_s = 0.2


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


def served(script: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
    """Run a script on a connection to a server that has little patience."""

    async def main() -> None:
        config = uvicorn_config(Starlette(routes=[Route("/", echo, methods=["GET", "POST"])]))
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: Hasty(config, state, {}), "127.0.0.1", 0
        )
        async with server, asyncio.timeout(20):
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await script(reader, writer)
            writer.close()
            await writer.wait_closed()
        await asyncio.gather(*state.tasks)

    asyncio.run(main())


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"POST / HT", HEAD[:-2]])
def test_who_does_not_finish_the_headers_is_hung_up_on(sent: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert await reader.read() == b""

    served(script)


def test_dripping_headers_gains_no_time() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start_s = asyncio.get_running_loop().time()
        ended = asyncio.ensure_future(reader.read())
        for byte in HEAD * 100:
            writer.write(bytes([byte]) if byte != 10 else b"x")  # no line ever ends
            await asyncio.sleep(0.01)
            if ended.done():
                break
        assert ended.result() == b""
        assert asyncio.get_running_loop().time() - start_s >= 0.2

    served(script)


def test_a_body_and_a_second_request_have_their_own_time() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(HEAD)
            await asyncio.sleep(0.3)  # longer than headers may take
            writer.write(b"body")
            answer = await reader.readuntil(b"body")
            assert answer.startswith(b"HTTP/1.1 200 OK")
        writer.write(b"GET")
        assert await reader.read() == b""

    served(script)


def body(*messages: Message, limit: int = 8) -> bytes:
    """Read a body that comes in pieces; after the last one nothing more comes."""
    pieces = iter(messages)

    async def receive() -> Message:
        message = next(pieces, None)
        return message if message is not None else await asyncio.Future()

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    return asyncio.run(read_body(Request(scope, receive), limit, within_s=0.05))


def piece(data: bytes, *, is_last: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": not is_last}


def test_a_body_is_read_within_its_limit_and_time() -> None:
    assert body(piece(b"1234"), piece(b"5678", is_last=True)) == b"12345678"
    for messages, status in (
        ((piece(b"12345"), piece(b"6789", is_last=True)), 413),
        ((piece(b"1234"),), 408),
        ((piece(b"1234"), {"type": "http.disconnect"}), 400),
    ):
        with pytest.raises(HTTPException) as refused:
            body(*messages)
        assert refused.value.status_code == status
