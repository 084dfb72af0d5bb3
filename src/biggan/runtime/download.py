"""Files and streams of web servers, which may be slow, endless or wrong: fetched with limits, and checked."""

import contextlib
import hashlib
import http.client
import io
import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import IO, Any

from biggan.runtime.atomic_io import write_stream
from biggan.runtime.progress import byte_progress_bar

BLOCK = 1 << 20  # bytes

TIMEOUT = 60.0  # seconds without a byte, and for the whole header of an answer

MIN_RATE = 10_000.0  # bytes a second, on average after TIMEOUT: a server that sends a byte now and then would never end

MAX_BYTES = 1 << 36  # of one file

MAX_REDIRECTIONS = 5

logger = logging.getLogger(__name__)


class TimedHeader:
    """A part of connections that ends them if the header of the answer is not there after TIMEOUT."""

    sock: socket.socket

    def getresponse(self) -> HTTPResponse:
        """The answer, with its header read. Raises OSError."""
        late, connection = threading.Event(), self.sock

        def hang_up() -> None:
            """End the connection on which the other thread waits."""
            late.set()
            with contextlib.suppress(OSError):  # it may have ended by itself
                connection.shutdown(socket.SHUT_RDWR)

        watch = threading.Timer(TIMEOUT, hang_up)
        watch.daemon = True
        watch.start()
        try:
            answer = super().getresponse()  # type: ignore[misc]
        finally:
            watch.cancel()
        if late.is_set():  # what was read may look like a whole header
            answer.close()
            raise TimeoutError("timed out before the header of the answer had ended")
        return answer


class Connection(TimedHeader, http.client.HTTPConnection):
    """An http connection with a limit of time for the header."""


class SecureConnection(TimedHeader, http.client.HTTPSConnection):
    """An https connection with a limit of time for the header."""


class HTTPHandler(urllib.request.HTTPHandler):
    """Opens http addresses by Connection."""

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        """The answer to a request. Raises OSError."""
        return self.do_open(Connection, request)  # type: ignore[type-var]


class HTTPSHandler(urllib.request.HTTPSHandler):
    """Opens https addresses by SecureConnection, which checks certificates."""

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        """The answer to a request. Raises OSError."""
        return self.do_open(SecureConnection, request)  # type: ignore[type-var]


class Redirections(urllib.request.HTTPRedirectHandler):
    """Follows up to MAX_REDIRECTIONS redirections to http and https, and none from https to http."""

    max_redirections = MAX_REDIRECTIONS

    def http_error_302(self, request: Any, file: Any, code: Any, message: Any, headers: Any) -> Any:
        """The answer of the new address. The body of the old one, which may be endless, is not read."""
        file.read = lambda: b""
        return super().http_error_302(request, file, code, message, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment]

    def redirect_request(self, request: Any, file: Any, code: Any, message: Any, headers: Any, address: str) -> Any:
        """The request that follows. Raises OSError on another scheme."""
        allowed = ("https://",) if request.full_url.startswith("https://") else ("http://", "https://")
        if not address.lower().startswith(allowed):
            raise OSError(f"it redirects to {address!r:.200}")
        return super().redirect_request(request, file, code, message, headers, address)


class Body(io.RawIOBase):
    """The body of an answer: not more than its declared length or MAX_BYTES, not shorter, and not slower than MIN_RATE."""

    def __init__(self, answer: HTTPResponse) -> None:
        super().__init__()
        self.answer, self.length = answer, declared_length(answer)
        self.done, self.waited, self.ended = 0, 0.0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has arrived, up to the size of the buffer. Raises OSError; for a body that is too short only when it is
        read beyond its end, so that what came before is not lost in a buffer."""
        start = time.monotonic()
        data = self.answer.read1(len(buffer))
        self.waited += time.monotonic() - start
        self.done += len(data)
        if self.ended and self.length is not None and self.done < self.length:
            raise OSError(f"the connection ended after {self.done} of {self.length} bytes")
        self.ended = not data
        if self.done > MAX_BYTES:
            raise OSError(f"it is larger than {MAX_BYTES:,} bytes")
        if self.waited > TIMEOUT + self.done / MIN_RATE:
            raise OSError(f"it is too slow: {self.done:,} bytes in {self.waited:.0f} seconds")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.answer.close()
        super().close()


def declared_length(answer: HTTPResponse) -> int | None:
    """The length of a body as its header says, in bytes; None if it does not. Raises OSError on what cannot be a length."""
    text = answer.headers.get("Content-Length")
    if text is None or answer.chunked:
        return None
    if not text.strip().isascii() or not text.strip().isdigit() or len(text) > 20 or int(text) > MAX_BYTES:
        raise OSError(f"its Content-Length is {text!r:.40}: at most {MAX_BYTES:,} bytes are read")
    return int(text)


def open_http(address: str) -> IO[bytes]:
    """The body at an http or https address as a stream. The server's time and the stream's length are limited (see Body).
    Raises OSError, or http.client.HTTPException on an answer that is not HTTP; reading does, too."""
    return open_body(address)[0]


def open_body(address: str) -> tuple[IO[bytes], int | None]:
    """As `open_http`, with the declared length."""
    opener = urllib.request.build_opener(HTTPHandler, HTTPSHandler, Redirections)
    try:
        answer = opener.open(address, timeout=TIMEOUT)
    except ValueError as error:  # no address, or a redirection to none
        raise OSError(f"{address!r:.200} cannot be opened ({error})") from error
    try:
        body = Body(answer)
    except OSError:
        answer.close()
        raise
    return io.BufferedReader(body, BLOCK), body.length


def fetch(address: str, target: Path, *, sha256: str | None = None) -> None:
    """One file, whole or not at all. Raises OSError where it cannot be fetched or has another checksum."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()

    def checked(blocks: Iterator[bytes]) -> Iterator[bytes]:
        """The blocks, whose length and checksum are compared at the end."""
        done = 0
        for block in blocks:
            digest.update(block)
            yield block
            done += len(block)
        if total is not None and done < total:
            raise OSError(f"the connection ended after {done} of {total} bytes")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise OSError(f"its sha256 is {digest.hexdigest()}, not {sha256}")

    try:
        body, total = open_body(address)
        with body:
            blocks = iter(lambda: body.read(BLOCK), b"")
            write_stream(target, checked(byte_progress_bar(blocks, total, target.name)))
    except http.client.HTTPException as error:
        raise OSError(f"the answer is not HTTP ({type(error).__name__}: {error})") from error
    logger.info("fetched %s", target.name)
