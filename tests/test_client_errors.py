"""Certificates and connecting: each case has its httpx2 exception, message, time and cause.

Every case runs over both transports. Messages are compared in full: learners read them.
"""

import asyncio
import errno
import logging
import os
import socket
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import psutil
import pytest
import trustme
from aioquic.h3.connection import ErrorCode
from aioquic.h3.events import HeadersReceived
from cryptography import x509

from helpers.certificates import load_or_create
from helpers.client import AsyncHTTP3Transport, HTTP3Transport
from helpers.connection import configuration, http3, udp
from helpers.errors import CertificateFileError, ConnectionLost, MalformedMessage, StreamReset
from helpers.server import Server
from tests.interop.processes import server_process
from tests.interop.scripted import say_nothing, scripted_server

# What would not come of itself takes the connect timeout of 3 s, or the read timeout of 5 s; where
# a test sets a time-out of its own, it allows five times that.
HANDSHAKE_S = CLOSED_PORT_S = 2.5
AT_ONCE_S = 4.0
CONNECT_TIMEOUT_S = 0.3


class Sync:
    """Requests over HTTP3Transport."""

    transport = HTTP3Transport

    def exchange(self, url, options, timeout=5.0, on_chunk=id):
        """Return a response; `on_chunk` gets its chunks as they come."""
        with (
            httpx2.Client(transport=HTTP3Transport(**options), timeout=timeout) as client,
            client.stream("GET", url) as response,
        ):
            for chunk in response.iter_raw():
                on_chunk(chunk)
            return response


class Async:
    """Requests over AsyncHTTP3Transport."""

    transport = AsyncHTTP3Transport

    def exchange(self, url, options, timeout=5.0, on_chunk=id):
        """Return a response; `on_chunk` gets its chunks as they come."""

        async def main():
            transport = AsyncHTTP3Transport(**options)
            async with (
                httpx2.AsyncClient(transport=transport, timeout=timeout) as client,
                client.stream("GET", url) as response,
            ):
                async for chunk in response.aiter_raw():
                    on_chunk(chunk)
                return response

        return asyncio.run(main())


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def side(request):
    return request.param()


@dataclass
class Failure:
    """What a request raised, and how long that took."""

    error: Exception
    seconds: float

    @property
    def cause(self):
        return self.error.__cause__

    def __str__(self):
        return str(self.error)


def failure(kind, side, url, arguments=None, **options):
    """Return how a request fails: it has to raise `kind` itself, not a subclass or parent."""
    started = time.perf_counter()
    with pytest.raises(kind) as caught:
        side.exchange(url, options, **(arguments or {}))
    assert type(caught.value) is kind
    return Failure(caught.value, time.perf_counter() - started)


@pytest.fixture
def silent_port():
    """A port that takes datagrams and never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def closed_port():
    """A port that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def example_test_is_here(monkeypatch):
    """The name example.test leads to 127.0.0.1."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        return resolve("127.0.0.1" if host == "example.test" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def certificate_files(directory: Path, *names, **validity):
    """Write a CA and a leaf with this validity; return the three files."""
    ca = trustme.CA()
    leaf = ca.issue_cert(*names, **validity)
    ca_file, cert_file, key_file = (directory / name for name in ("ca", "cert", "key"))
    ca.cert_pem.write_to_path(ca_file)
    leaf.cert_chain_pems[0].write_to_path(cert_file)
    leaf.private_key_pem.write_to_path(key_file)
    return ca_file, cert_file, key_file


# Nobody there


def test_a_closed_port_is_reported_by_the_system(side, credentials, closed_port):
    url = f"https://127.0.0.1:{closed_port}/"
    failed = failure(httpx2.ConnectError, side, url, ca_file=credentials.ca_file)
    assert str(failed) == (
        f"No HTTP/3 server answered at 127.0.0.1:{closed_port} (UDP): the port is closed. "
        "Is the server's cell running?"
    )
    assert failed.seconds < CLOSED_PORT_S
    assert isinstance(failed.cause, ConnectionError)


def test_a_silent_port_takes_the_connect_timeout(side, credentials, silent_port):
    failed = failure(
        httpx2.ConnectTimeout,
        side,
        f"https://127.0.0.1:{silent_port}/",
        ca_file=credentials.ca_file,
        connect_timeout_s=CONNECT_TIMEOUT_S,
    )
    assert str(failed) == (
        f"No HTTP/3 server answered at 127.0.0.1:{silent_port} (UDP) within 0.3 s. "
        "Is the server's cell running?"
    )
    assert CONNECT_TIMEOUT_S <= failed.seconds < 5 * CONNECT_TIMEOUT_S
    assert isinstance(failed.cause, TimeoutError)


def test_httpx2s_own_connect_timeout_counts_where_it_is_shorter(side, credentials, silent_port):
    failed = failure(
        httpx2.ConnectTimeout,
        side,
        f"https://127.0.0.1:{silent_port}/",
        ca_file=credentials.ca_file,
        arguments={"timeout": httpx2.Timeout(5, connect=CONNECT_TIMEOUT_S)},
    )
    assert "within 0.3 s" in str(failed)
    assert CONNECT_TIMEOUT_S <= failed.seconds < 5 * CONNECT_TIMEOUT_S


def test_a_requests_own_connect_timeout_counts_where_it_is_longer(side, credentials, silent_port):
    """And the message says the seconds that it took."""
    failed = failure(
        httpx2.ConnectTimeout,
        side,
        f"https://127.0.0.1:{silent_port}/",
        ca_file=credentials.ca_file,
        connect_timeout_s=0.001,
        arguments={"timeout": httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)},
    )
    assert "within 0.3 s" in str(failed)
    assert CONNECT_TIMEOUT_S <= failed.seconds < 5 * CONNECT_TIMEOUT_S


@pytest.mark.parametrize("timeout", [None, httpx2.Client(trust_env=False).timeout])
def test_where_nobody_chose_a_connect_timeout_the_transports_counts(
    side, credentials, silent_port, timeout
):
    """Neither httpx2's default of 5 s was chosen, nor None, which is meant for the reading."""
    failed = failure(
        httpx2.ConnectTimeout,
        side,
        f"https://127.0.0.1:{silent_port}/",
        ca_file=credentials.ca_file,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        arguments={"timeout": timeout},
    )
    assert "within 0.3 s" in str(failed)
    assert CONNECT_TIMEOUT_S <= failed.seconds < 5 * CONNECT_TIMEOUT_S


def test_an_address_that_stays_silent_is_a_timeout_though_the_next_one_refuses(
    side, credentials, silent_port
):
    """`localhost` is 127.0.0.1, which is silent, and ::1, which is closed."""
    failed = failure(
        httpx2.ConnectTimeout,
        side,
        f"https://localhost:{silent_port}/",
        ca_file=credentials.ca_file,
        connect_timeout_s=CONNECT_TIMEOUT_S,
    )
    assert isinstance(failed.cause, TimeoutError)
    assert failed.seconds < 5 * CONNECT_TIMEOUT_S


def test_requests_at_once_to_a_silent_port_wait_together(credentials, silent_port):
    """Sixteen of them take one time-out, not sixteen."""

    async def main():
        transport = AsyncHTTP3Transport(
            ca_file=credentials.ca_file, connect_timeout_s=CONNECT_TIMEOUT_S
        )
        async with httpx2.AsyncClient(transport=transport) as client:
            url = f"https://127.0.0.1:{silent_port}/"
            return await asyncio.gather(
                *(client.get(url) for _ in range(16)), return_exceptions=True
            )

    started = time.perf_counter()
    errors = asyncio.run(main())
    assert {type(error) for error in errors} == {httpx2.ConnectTimeout}
    assert {str(error) for error in errors} == {
        f"No HTTP/3 server answered at 127.0.0.1:{silent_port} (UDP) within 0.3 s. "
        "Is the server's cell running?"
    }
    assert time.perf_counter() - started < 5 * CONNECT_TIMEOUT_S


def test_a_name_without_an_address(side, credentials, monkeypatch):
    def getaddrinfo(host, *args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    failed = failure(
        httpx2.ConnectError, side, "https://nowhere.test/", ca_file=credentials.ca_file
    )
    assert str(failed) == "Host 'nowhere.test' has no address: Name or service not known."
    assert isinstance(failed.cause, socket.gaierror)


def test_an_ipv6_address_stands_in_brackets(side, credentials, closed_port):
    failed = failure(
        httpx2.ConnectError, side, f"https://[::1]:{closed_port}/", ca_file=credentials.ca_file
    )
    assert str(failed).startswith(f"No HTTP/3 server answered at [::1]:{closed_port} (UDP)")


# Certificates


def test_a_ca_that_is_not_trusted(side, server):
    failed = failure(httpx2.ConnectError, side, server.url("/"))
    assert str(failed) == (
        "Certificate not trusted: unable to get local issuer certificate. "
        "Pass ca_file=... of the CA that issued it."
    )
    assert failed.seconds < HANDSHAKE_S
    assert isinstance(failed.cause, ConnectionLost)


def test_what_this_machine_cannot_do_is_said(client, monkeypatch):
    def refuse(family):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(udp, "_new_socket", refuse)
    with pytest.raises(httpx2.ConnectError) as caught:
        client.get("https://localhost:4433/")
    text = os.strerror(errno.EMFILE)
    assert str(caught.value) == f"This machine cannot send to localhost:4433 (UDP): {text}."


@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM])
@pytest.mark.parametrize("fails_first", [True, False])
def test_a_machine_that_cannot_send_is_not_taken_for_a_silent_server(
    client, silent_port, monkeypatch, code, fails_first
):
    """Unless what it sent last has left: the way may be free again."""

    class Unreachable(socket.socket):
        sent = 0

        def send(self, data):
            Unreachable.sent += 1
            if fails_first and Unreachable.sent > 1:
                return super().send(data)
            raise OSError(code, os.strerror(code))

    kind = types.SimpleNamespace(**{**vars(socket), "socket": Unreachable})
    monkeypatch.setattr(udp, "socket", kind)
    expected = httpx2.ConnectTimeout if fails_first else httpx2.ConnectError
    with pytest.raises(expected) as caught:
        client.get(f"https://127.0.0.1:{silent_port}/", timeout=httpx2.Timeout(5, connect=1.0))
    where = f"127.0.0.1:{silent_port} (UDP)"
    assert str(caught.value) == (
        f"No HTTP/3 server answered at {where} within 1 s. Is the server's cell running?"
        if fails_first
        else f"This machine cannot send to {where}: {os.strerror(code)}."
    )


def test_a_server_hears_that_its_certificate_was_refused(side, server, caplog):
    """Or it would keep the half-open connection for its idle timeout."""
    caplog.set_level(logging.INFO, "helpers.server")
    failure(httpx2.ConnectError, side, server.url("/"))
    deadline = time.monotonic() + configuration.IDLE_TIMEOUT_S / 2
    while not (heard := [r.message for r in caplog.records if r.name == "helpers.server"]):
        assert time.monotonic() < deadline, "the server still waits"
        time.sleep(0.01)
    assert heard == [
        "Connection over: The connection ended with TLS alert 42 (0x12a): "
        "unable to get local issuer certificate."
    ]
    assert server._listener.connections == []


def issuer_of(file):
    return x509.load_pem_x509_certificate(file.read_bytes()).issuer.rfc4514_string()


def test_a_ca_of_another_name_is_named_beside_the_issuer(side, server, credentials, tmp_path):
    ca_file, _, _ = certificate_files(tmp_path, "localhost")
    failed = failure(httpx2.ConnectError, side, server.url("/"), ca_file=ca_file)
    assert str(failed) == (
        "Certificate not trusted: unable to get local issuer certificate. "
        f"It was issued by {issuer_of(credentials.cert_file)}, "
        f"and {ca_file} holds {issuer_of(ca_file)}."
    )


def test_another_ca_is_no_better_than_none(side, server, tmp_path):
    other = load_or_create(tmp_path)
    failed = failure(httpx2.ConnectError, side, server.url("/"), ca_file=other.ca_file)
    # No word of trusting what was refused.
    assert str(failed) == (
        "Certificate not trusted: unable to get local issuer certificate. "
        f"It was issued by {issuer_of(other.ca_file)}, "
        f"and {other.ca_file} holds another CA of that name."
    )
    assert failed.seconds < HANDSHAKE_S
    assert isinstance(failed.cause, ConnectionLost)


@pytest.mark.parametrize("name", ["www.example.test", "bücher.test", "www.example.test."])
def test_the_name_to_be_verified_may_be_another_than_the_hosts(tmp_path, name):
    """httpx2's extension `sni_hostname`; each name has a connection of its own."""
    made = load_or_create(tmp_path, names=("www.example.test", "xn--bcher-kva.test"))
    with Server(made.cert_file, made.key_file) as server:

        @server.route("/who")
        async def who(request, response):
            await response.write(f"{request.headers['host']} {request.client[1]}")

        url = f"https://127.0.0.1:{server.port}/who"
        with httpx2.Client(transport=HTTP3Transport(ca_file=made.ca_file)) as client:
            options = {"headers": {"host": "a.test"}, "extensions": {"sni_hostname": name}}
            first, second = (client.get(url, **options).text for _ in range(2))
            assert first == second
            assert first.startswith("a.test ")
            with pytest.raises(httpx2.ConnectError, match=r"not for '127\.0\.0\.1'"):
                client.get(url)
            with pytest.raises(httpx2.ConnectError, match=r"not for 'other\.test'"):
                client.get(url, extensions={"sni_hostname": "other.test"})


@pytest.mark.parametrize("name", [b"bytes", 7, "\ud800"])
def test_a_name_to_be_verified_that_is_none_is_refused(client, server, name):
    with pytest.raises(httpx2.LocalProtocolError, match="no host name"):
        client.get(server.url("/"), extensions={"sni_hostname": name})


@pytest.mark.usefixtures("example_test_is_here")
def test_a_name_that_is_not_in_the_certificate(side, server, credentials):
    failed = failure(
        httpx2.ConnectError,
        side,
        f"https://example.test:{server.port}/",
        ca_file=credentials.ca_file,
    )
    assert str(failed) == ("Certificate is for localhost, 127.0.0.1, ::1, not for 'example.test'.")
    assert failed.seconds < HANDSHAKE_S
    assert isinstance(failed.cause, ConnectionLost)


def test_an_address_that_is_not_in_the_certificate(side, tmp_path):
    ca_file, cert_file, key_file = certificate_files(tmp_path, "example.test")
    with Server(cert_file, key_file) as server:
        url = f"https://127.0.0.1:{server.port}/"
        failed = failure(httpx2.ConnectError, side, url, ca_file=ca_file)
    assert str(failed) == "Certificate is for example.test, not for '127.0.0.1'."
    assert failed.seconds < HANDSHAKE_S


@pytest.mark.parametrize(
    ("validity", "message"),
    [
        (
            {"not_before": datetime(2020, 1, 2, 3, 4), "not_after": datetime(2021, 5, 6, 7, 8)},
            "Certificate expired on 2021-05-06 07:08 UTC. "
            "Make a new one, or set this machine's clock.",
        ),
        (
            {"not_before": datetime(2999, 1, 2, 3, 4), "not_after": datetime(2999, 5, 6, 7, 8)},
            "Certificate is not valid before 2999-01-02 03:04 UTC. "
            "Make a new one, or set this machine's clock.",
        ),
    ],
    ids=["expired", "not yet valid"],
)
def test_a_certificate_out_of_its_time(side, tmp_path, validity, message):
    ca_file, cert_file, key_file = certificate_files(tmp_path, "localhost", **validity)
    with Server(cert_file, key_file) as server:
        failed = failure(httpx2.ConnectError, side, server.url("/"), ca_file=ca_file)
    assert str(failed) == message
    assert failed.seconds < HANDSHAKE_S
    assert isinstance(failed.cause, ConnectionLost)


def test_without_verification_anybody_is_trusted(side, tmp_path):
    yesterday = datetime.now(UTC) - timedelta(days=1)
    validity = {"not_before": datetime(2020, 1, 1), "not_after": yesterday.replace(tzinfo=None)}
    _, cert_file, key_file = certificate_files(tmp_path, "example.test", **validity)
    with Server(cert_file, key_file) as server:
        response = side.exchange(server.url("/"), {"verify": False})
    assert response.status_code == 404


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "missing.pem",
            None,
            "does not exist. Check the path, or let load_or_create() make the file.",
        ),
        (".", None, "is a directory. Pass the path of a PEM file."),
        (
            "text.pem",
            b"not a certificate\n",
            "is not a PEM file: it has no -----BEGIN line. Convert it with openssl, or pass the "
            "file that ends in .pem.",
        ),
    ],
    ids=["missing", "a directory", "not PEM"],
)
def test_a_ca_file_that_cannot_serve_is_refused_at_construction(
    side, tmp_path, name, content, complaint
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    threads = threading.active_count()
    with pytest.raises(CertificateFileError) as caught:
        side.transport(ca_file=path)
    assert str(caught.value) == f"{path} {complaint}"
    assert threading.active_count() == threads


# The other end is not what it should be


def test_a_server_that_does_not_speak_http3(side, credentials):
    with scripted_server(credentials.cert_file, credentials.key_file, alpn="hq-interop") as port:
        failed = failure(
            httpx2.ConnectError, side, f"https://127.0.0.1:{port}/", ca_file=credentials.ca_file
        )
    assert str(failed) == "The server does not speak HTTP/3 (ALPN offered: h3)."
    assert failed.seconds < HANDSHAKE_S
    assert isinstance(failed.cause, ConnectionLost)


def test_http_without_tls_is_refused(side, credentials):
    url = "http://localhost:8080/stream"
    failed = failure(httpx2.UnsupportedProtocol, side, url, ca_file=credentials.ca_file)
    assert str(failed) == (
        "HTTP/3 has https:// URLs only (RFC 9114 section 3.1), not 'http://localhost:8080/stream'."
    )


def test_a_server_that_stays_silent_is_a_read_timeout(side, credentials):
    with scripted_server(credentials.cert_file, credentials.key_file, say_nothing) as port:
        failed = failure(
            httpx2.ReadTimeout,
            side,
            f"https://127.0.0.1:{port}/",
            ca_file=credentials.ca_file,
            arguments={"timeout": httpx2.Timeout(5, read=0.3)},
        )
    assert str(failed) == "The read operation timed out"
    assert 0.3 <= failed.seconds < 5 * 0.3
    assert isinstance(failed.cause, TimeoutError)


def test_a_server_that_falls_silent_is_a_read_timeout(side, server, credentials):
    @server.route("/half")
    async def half(request, response):
        await response.write("the first half")
        await response.flush()
        await asyncio.Event().wait()

    failed = failure(
        httpx2.ReadTimeout,
        side,
        server.url("/half"),
        ca_file=credentials.ca_file,
        arguments={"timeout": httpx2.Timeout(5, read=0.3)},
    )
    assert str(failed) == "The read operation timed out"
    assert 0.3 <= failed.seconds < 5 * 0.3
    assert isinstance(failed.cause, TimeoutError)


def test_a_reset_mid_body_says_what_had_come(side, server, credentials):
    @server.route("/breaks")
    async def breaks(request, response):
        stream = await response.take_over()
        await stream.write(b"12345")
        await stream.write(b"1234567")
        stream.reset(ErrorCode.H3_INTERNAL_ERROR)

    url = server.url("/breaks")
    failed = failure(httpx2.RemoteProtocolError, side, url, ca_file=credentials.ca_file)
    assert str(failed) == (
        "The server ended stream 0 with H3_INTERNAL_ERROR (0x102) after 2 chunks, 12 bytes."
    )
    assert failed.seconds < AT_ONCE_S
    assert isinstance(failed.cause, StreamReset)
    assert (failed.cause.stream_id, failed.cause.error_code) == (0, ErrorCode.H3_INTERNAL_ERROR)


def test_a_reset_before_the_response(side, credentials):
    def answer(connection, event):
        if isinstance(event, HeadersReceived):
            connection.quic.reset_stream(event.stream_id, 0x1234)

    with scripted_server(credentials.cert_file, credentials.key_file, answer) as port:
        url = f"https://127.0.0.1:{port}/"
        failed = failure(httpx2.RemoteProtocolError, side, url, ca_file=credentials.ca_file)
    assert str(failed) == (
        "The server ended stream 0 with unknown error (0x1234) before the response began."
    )
    assert isinstance(failed.cause, StreamReset)


def test_a_body_shorter_than_its_content_length(side, credentials):
    def answer(connection, event):
        if isinstance(event, HeadersReceived):
            header = [(b":status", b"200"), (b"content-length", b"10")]
            connection.http.send_headers(event.stream_id, header)
            connection.http.send_data(event.stream_id, b"1234", end_stream=True)

    with scripted_server(credentials.cert_file, credentials.key_file, answer) as port:
        url = f"https://127.0.0.1:{port}/"
        failed = failure(httpx2.RemoteProtocolError, side, url, ca_file=credentials.ca_file)
    assert str(failed) == (
        "The message on stream 0 is malformed: its content-length says 10 bytes, 4 came. "
        "That was after 1 chunk, 4 bytes."
    )
    assert isinstance(failed.cause, MalformedMessage)


def test_a_response_that_aioquic_refuses(side, credentials):
    def answer(connection, event):
        if isinstance(event, HeadersReceived):
            connection.http.send_headers(event.stream_id, [(b":status", b"fine")], True)

    with scripted_server(credentials.cert_file, credentials.key_file, answer) as port:
        url = f"https://127.0.0.1:{port}/"
        failed = failure(httpx2.ReadError, side, url, ca_file=credentials.ca_file)
    assert str(failed) == (
        "The connection was lost before the response began. "
        "The connection ended with H3_MESSAGE_ERROR (0x10e): "
        "Pseudo-header b':status' has invalid value b'fine'."
    )
    assert isinstance(failed.cause, ConnectionLost)
    assert failed.cause.code == ErrorCode.H3_MESSAGE_ERROR


def test_a_server_that_closes_mid_body_gives_its_reason(side, credentials):
    def answer(connection, event):
        if isinstance(event, HeadersReceived):
            connection.http.send_headers(event.stream_id, [(b":status", b"200")])
            connection.http.send_data(event.stream_id, b"1234", end_stream=False)
            connection.transmit()
            connection.quic.close(
                error_code=ErrorCode.H3_INTERNAL_ERROR, reason_phrase="out of coffee"
            )
            connection.transmit()

    with scripted_server(credentials.cert_file, credentials.key_file, answer) as port:
        url = f"https://127.0.0.1:{port}/"
        failed = failure(httpx2.ReadError, side, url, ca_file=credentials.ca_file)
    assert str(failed) == (
        "The connection was lost after 1 chunk, 4 bytes. "
        "The connection ended with H3_INTERNAL_ERROR (0x102): out of coffee."
    )
    assert failed.seconds < AT_ONCE_S
    assert isinstance(failed.cause, ConnectionLost)


def failures_of_both(server, credentials, end_server):
    """Read three chunks over both transports, end the server, return the two failures."""
    read = threading.Barrier(3)

    def read_until_it_breaks(side):
        chunks = []

        def on_chunk(chunk):
            chunks.append(chunk)
            if len(chunks) == 3:
                read.wait(10)

        return failure(
            httpx2.ReadError,
            side,
            server.url("/three"),
            ca_file=credentials.ca_file,
            arguments={"timeout": 30, "on_chunk": on_chunk},
        )

    with ThreadPoolExecutor(2) as pool:
        failures = [pool.submit(read_until_it_breaks, side) for side in (Sync(), Async())]
        read.wait(10)
        ended_at = time.perf_counter()
        end_server()
        errors = [future.result(30) for future in failures]
        return errors, time.perf_counter() - ended_at


def test_a_server_that_is_killed_mid_body(credentials):
    with server_process("three_chunks", credentials.cert_file, credentials.key_file) as server:
        failures, seconds = failures_of_both(server, credentials, server.kill)
    for failed in failures:
        assert str(failed) == (
            "The connection was lost after 3 chunks, 24 bytes. "
            f"The connection ended: port {server.port} is closed."
        )
        assert isinstance(failed.cause, ConnectionLost)
    assert seconds < 5 * 10


def test_a_server_that_vanishes_mid_body(credentials, monkeypatch):
    """It says nothing more, as if its cable were cut; before, it was quiet and yet alive."""
    monkeypatch.setattr(configuration, "IDLE_TIMEOUT_S", 0.7)
    monkeypatch.setattr(http3, "KEEP_ALIVE_AFTER_S", 0.2)
    files = (credentials.cert_file, credentials.key_file)
    with server_process("three_chunks", *files, 1.0) as server:
        failures, seconds = failures_of_both(
            server, credentials, psutil.Process(server.process.pid).suspend
        )
    for failed in failures:
        assert str(failed) == (
            "The connection was lost after 3 chunks, 24 bytes. "
            "The connection ended: nothing came for 0.7 s, the peer has vanished."
        )
        assert isinstance(failed.cause, ConnectionLost)
    assert seconds < 5 * (0.7 + 0.3)
