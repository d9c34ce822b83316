"""A server on the loopback that does what servers do on bad days, one fault a request, then serves properly."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STALL_SECONDS = 0.6
_PIECE = 1 << 14


@contextmanager
def silent_address():
    """An address on the loopback whose connections hang: beyond a full backlog they are left without an answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for client in clients:
                client.close()


class FaultyServer:
    """Serves ``files`` (path -> bytes) below ``url``; each request takes the next of ``faults``, if any.

    Faults: drop, reset, stall, short, long, corrupt, empty, no_length, ignore_range, wrong_part, html, a status such
    as 500, ``redirect:ADDRESS``, circle, slow.
    """

    def __init__(self, files=None):
        self.files = dict(files or {})
        self.faults = deque()
        self.requests = []
        self.validators = True
        self._stopping = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                owner._answer(self)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request):
        asked = request.headers.get("Range", "")
        self.requests.append((request.path, asked))
        fault = self.faults.popleft() if self.faults else ""
        if fault == "reset":
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.close_connection = True
            request.connection.close()
            return
        if fault.isdigit():
            self._send(request, int(fault), b"trouble", {})
            return
        if fault == "html":
            self._send(request, 200, b"<!DOCTYPE html><title>Sorry</title>" * 99, {"Content-Type": "text/html"})
            return
        if fault.startswith("redirect:") or fault == "circle":
            if fault == "circle":
                self.faults.appendleft("circle")
            self._send(request, 302, b"", {"Location": fault.partition(":")[2] or request.path})
            return
        path = request.path.partition("?")[0]
        if path not in self.files:
            self._send(request, 404, b"no such file", {})
            return
        self._send_file(request, fault, self.files[path], asked)

    def _send_file(self, request, fault, data, asked):
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        head = {"ETag": tag, "Accept-Ranges": "bytes"} if self.validators else {"Accept-Ranges": "bytes"}
        status, first = 200, 0
        found = re.fullmatch(r"bytes=(\d+)-", asked)
        fresh = request.headers.get("If-Range", tag) == tag
        if found and fresh and fault != "ignore_range":
            first = int(found[1])
            if first >= len(data):
                self._send(request, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            shown = first + 7 if fault == "wrong_part" else first
            head["Content-Range"] = f"bytes {shown}-{len(data) - 1}/{len(data)}"
        body = bytearray(data[first:])
        if fault == "corrupt":
            body[len(body) // 2] ^= 1
        if fault == "short":
            body = body[: len(body) // 2]
        if fault == "long":
            body += b"more"
        if fault == "empty":
            body = bytearray()
        self._send(request, status, bytes(body), head, fault)

    def _send(self, request, status, body, head, fault=""):
        request.send_response(status)
        for name, value in head.items():
            request.send_header(name, value)
        if fault == "no_length":
            request.send_header("Connection", "close")
            request.close_connection = True
        else:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        cut = len(body) * 2 // 3 if fault in ("drop", "stall", "no_length") else len(body)
        for start in range(0, cut, _PIECE):
            request.wfile.write(body[start : min(start + _PIECE, cut)])
            if fault == "slow":
                time.sleep(0.1)
        request.wfile.flush()
        if fault == "stall":
            self._stopping.wait(STALL_SECONDS)
        if cut < len(body):
            request.close_connection = True
