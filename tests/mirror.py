"""A server on this machine alone that gives files, and gives them badly if asked to."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Mirror:
    """faults: what to do with a path instead of giving its file ("missing", "cut", "corrupt", "stall")."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            known.asked.append(path)
            fault = known.faults.get(path)
            if path not in known.files or fault == "missing":
                self.send_error(404)
                return
            content = known.files[path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault == "corrupt":
                content = content[:-1] + bytes([content[-1] ^ 1])
            if fault == "slow":
                for byte in content[:3]:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(0.8)
                content = content[3:]
            if fault in ("cut", "stall"):
                content = content[: len(content) // 2]
            self.wfile.write(content)
            self.wfile.flush()
            if fault == "stall":
                released.wait(600)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known = Mirror(f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield known
    released.set()
    server.shutdown()
    server.server_close()
