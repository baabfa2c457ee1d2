"""A real HTTP server in front of the emulator: it counts requests and makes the faults that a test asks for.

It holds requests against the versions of objects that they name, too, which the emulator does not.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import http.client
import http.server
import itertools
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

HANG_S = 120


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
        kind: `list`, `read`, `information`, `write`, `copy`, `delete` or `bucket`.
        name: of the object, or the prefix that is listed.
        authorised: whether it came with an access token.
    """

    kind: str
    name: str
    authorised: bool


Fault = str | int | None
"""`cut`, `hang`, `reset`, `slow`, `flip` (one bit of the content), a status to answer with, or None for no fault."""


class Proxy:
    """The server of one test.

    Attributes:
        requests: all that came, in order.
        fault: says which fault a request meets; may be replaced at any time.
        answered: is told each status that a request is answered with; may be replaced too.
        fast_s: by how much the store's clock is fast.
    """

    def __init__(self, upstream: str):
        self.requests: list[Request] = []
        self.fault: Callable[[Request], Fault] = lambda _: None
        self.answered: Callable[[Request, int], None] = lambda _, status: None
        self.fast_s = 0.0
        self.endpoint = ""
        self._upstream = urllib.parse.urlsplit(upstream).netloc
        self._turn = threading.Lock()  # the emulator answers one at a time, and turns away whoever queues behind a few
        self.over = threading.Event()

    def counts(self) -> dict[str, int]:
        """Requests by kind."""
        return dict(collections.Counter(request.kind for request in self.requests))

    def first(self, number: int, fault: Fault, *kinds: str) -> None:
        """Lets the first requests of each kind, and of each object, meet a fault."""
        seen: collections.Counter[tuple[str, str]] = collections.Counter()

        def chosen(request: Request) -> Fault:
            seen[request.kind, request.name] += 1
            return fault if request.kind in kinds and seen[request.kind, request.name] <= number else None

        self.fault = chosen

    def every(self, number: int, faults: list[Fault]) -> None:
        """Lets one in so many requests meet the next of some faults, in turn."""
        count, turn = itertools.count(1), itertools.cycle(faults)
        self.fault = lambda _: next(turn) if next(count) % number == 0 else None

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, list, bytes]:
        """The emulator's answer, or a refusal if a version is named that is not there."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        with self._turn:
            for condition, refusal in (("ifGenerationMatch", 412), ("generation", 404)):
                if condition in query and query[condition] != [there := self._generation(method, path, body)]:
                    status = 404 if method == "DELETE" and there == "0" else refusal
                    return status, [], json.dumps({"error": {"code": status, "message": "a condition"}}).encode()
            return self._forward(method, path, body, headers)

    def _forward(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, list, bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content

    def _generation(self, method: str, path: str, body: bytes) -> str:
        """The version that is there of the object that a request is about, which the store makes from the time."""
        bucket = urllib.parse.urlsplit(path).path.partition("/b/")[2].partition("/")[0]
        name = urllib.parse.quote(described(method, path, body, False).name, safe="")
        status, _, content = self._forward("GET", f"/storage/v1/b/{bucket}/o/{name}", b"", {})
        return json.loads(content)["generation"] if status == 200 else "0"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def answer(self) -> None:
        body = self._body()
        request = described(self.command, self.path, body, "Authorization" in self.headers)
        self.proxy.requests.append(request)
        fault = self.proxy.fault(request)
        if fault == "hang":
            self.proxy.over.wait(HANG_S)
            self.close_connection = True
            return
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        if isinstance(fault, int):
            message = {401: "Anonymous caller does not have access", 403: "no storage.objects access"}
            self.proxy.answered(request, fault)
            error = {"code": fault, "message": message.get(fault, "We encountered a problem.")}
            self._send(fault, [("Content-Type", "application/json")], json.dumps({"error": error}).encode())
            return
        if fault == "slow":
            time.sleep(0.3)
        keep = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "host")}
        status, headers, content = self.proxy.ask(self.command, self.path, body, {**keep, "Host": self.headers["Host"]})
        self.proxy.answered(request, status)
        if request.kind == "information" and self.proxy.fast_s:
            content = re.sub(rb'(?<="updated": ")[^"]+', self._by_fast_clock, content)
        if fault == "flip" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        self._send(status, headers, content, whole=fault != "cut")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer  # noqa: N815

    def _body(self) -> bytes:
        if length := self.headers.get("Content-Length"):
            return self.rfile.read(int(length))
        content = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            del self.headers["Transfer-Encoding"]
        return content

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes, whole: bool = True) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if whole else content[: len(content) // 2])
        if not whole:
            self.close_connection = True

    def _by_fast_clock(self, time_: re.Match[bytes]) -> bytes:
        told = datetime.datetime.fromisoformat(time_.group().decode())
        return (told + datetime.timedelta(seconds=self.proxy.fast_s)).isoformat().encode()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.proxy.fast_s)

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False


def described(method: str, target: str, body: bytes, authorised: bool) -> Request:
    """A request in words."""
    address = urllib.parse.urlsplit(target)
    query = urllib.parse.parse_qs(address.query)
    name = urllib.parse.unquote(address.path.partition("/o/")[2].partition("/rewriteTo/")[0])
    if method == "DELETE":
        kind = "delete"
    elif "/rewriteTo/" in address.path:
        kind = "copy"
    elif address.path.startswith("/upload/"):
        kind = "write"
        name = query.get("name", [""])[0]
        if not name and b'"name"' in body:
            name = json.JSONDecoder().raw_decode(body[body.index(b"{") :].decode("utf-8", "replace"))[0]["name"]
    elif query.get("alt") == ["media"]:
        kind = "read"
    elif address.path.endswith("/o"):
        kind, name = "list", query.get("prefix", [""])[0]
    elif name:
        kind = "information"
    else:
        kind = "bucket"
    return Request(kind, name, authorised)


@contextlib.contextmanager
def proxy_of(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of a server, in threads of this process."""
    proxy = Proxy(upstream)
    with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy})) as server:
        proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield proxy
        proxy.over.set()
        server.shutdown()
