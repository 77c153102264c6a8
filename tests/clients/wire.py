"""Bytes to a port and bytes back: for requests that no HTTP library would send."""

import contextlib
import re
import socket
import time


@contextlib.contextmanager
def connected(port, timeout_s=20):
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def talk(port, *pieces, half_close=False, timeout_s=20):
    """Sends the pieces and reads until the server closes, or, on a kept connection, until one answer is complete."""
    with connected(port, timeout_s) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                # The server may refuse before it has read everything.
                break
        if half_close:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        return received(connection)


def received(connection):
    """Everything up to the end, or up to the end of the first answer with a length."""
    found = b""
    while not is_complete(found):
        try:
            piece = connection.recv(65536)
        except OSError:
            break
        if not piece:
            break
        found += piece
    return found


def is_complete(found):
    head, end, body = found.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        return is_complete(body)
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end and length) and len(body) >= int(length[1])


def status(found):
    """The status of the first answer, 100 passed over; 0 when the server only closed."""
    match = re.search(rb"HTTP/1\.1 ([2-5]\d\d)", found)
    return int(match[1]) if match else 0


def seconds_until_closed(connection):
    """How long the server keeps the connection; what it still says is read and dropped."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return time.monotonic() - began


def post(path, body, *headers, host="localhost", content_type="application/json"):
    """A whole POST request as bytes."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
