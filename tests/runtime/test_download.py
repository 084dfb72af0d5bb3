"""Servers that are slow, endless or wrong."""

import contextlib
import http.server
import socketserver
import threading
import time

import pytest

from biggan.runtime import download
from biggan.runtime.download import fetch, open_http


@contextlib.contextmanager
def serving(*answers):
    """An address whose server sends the answers, one for each connection, the last for all others. An answer is bytes, or an
    iterator of (seconds to wait, bytes)."""
    pending = list(answers)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(65536)
            answer = pending.pop(0) if len(pending) > 1 else pending[0]
            with contextlib.suppress(OSError):
                for wait, data in [(0, answer)] if isinstance(answer, bytes) else answer():
                    time.sleep(wait)
                    self.request.sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/file"
        server.shutdown()


def head(*lines):
    return "\r\n".join(("HTTP/1.1 200 OK", "Connection: close", *lines, "", "")).encode()


def drip():
    """A body of a byte now and then, without an end."""
    yield 0, head()
    while True:
        yield 0.02, b"x"


def drip_header():
    yield 0, b"HTTP/1.1 200 OK\r\n"
    while True:
        yield 0.02, b"X"


def endless():
    yield 0, head()
    while True:
        yield 0, bytes(1 << 16)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    monkeypatch.setattr(download, "MAX_BYTES", 1 << 20)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (drip, "too slow"),
        (drip_header, "timed out before the header"),
        (endless, "larger than 1,048,576 bytes"),
        (lambda: iter([(0, head("Content-Length: 100") + b"half"), (5, b"")]), "timed out"),
        (head("Content-Length: 100") + b"half", "the connection ended after 4 of 100 bytes"),
        (head("Content-Length: abc"), "Content-Length is 'abc'"),
        (head("Content-Length: -5"), "Content-Length is '-5'"),
        (head("Content-Length: " + "9" * 5000), "Content-Length is '9999"),
        (head("Content-Length: 1048577"), "at most 1,048,576 bytes are read"),
        (head("Transfer-Encoding: chunked") + b"zz\r\nabc", "."),
        (b"nonsense\r\n\r\n", "."),
        (b"", "."),
        (b"HTTP/1.1 500 No\r\n\r\n", "500"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "redirects to 'file:///etc/passwd'|not allowed"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/x\r\n\r\n", "redirects to 'ftp://127.0.0.1/x'"),
        (b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", "redirect"),
    ],
)
def test_what_a_server_may_do_ends_with_an_error_and_without_a_file(tmp_path, impatient, answer, message):
    started = time.monotonic()
    with serving(answer) as address, pytest.raises(OSError, match=message):
        fetch(address, tmp_path / "file")
    assert time.monotonic() - started < 5
    assert not list(tmp_path.iterdir())


def test_a_redirection_with_an_endless_body_is_followed(tmp_path, impatient):
    def answer():
        yield 0, b"HTTP/1.1 302 Found\r\nLocation: /other\r\n\r\n"
        while True:
            yield 0, bytes(1 << 16)

    with serving(answer, head("Content-Length: 4") + b"data") as address:
        fetch(address, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"data"


def test_a_consumer_that_takes_its_time_is_not_a_slow_server(impatient):
    body = bytes(300_000)
    with serving(head(f"Content-Length: {len(body)}") + body) as address, open_http(address) as stream:
        first = stream.read(10)
        time.sleep(0.5)
        assert len(first + stream.read()) == len(body)


@pytest.mark.parametrize("sent", [0, 1 << 20, 2 << 20])
def test_a_body_that_is_cut_off_at_the_end_of_a_block_is_no_file(sent, tmp_path, monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(3 << 20))
            self.end_headers()
            self.wfile.write(bytes(sent))

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(OSError, match=f"ended after {sent} of {3 << 20} bytes"):
            fetch(f"http://127.0.0.1:{server.server_address[1]}/x.bin", tmp_path / "x.bin")
        server.shutdown()
    assert not list(tmp_path.iterdir())
