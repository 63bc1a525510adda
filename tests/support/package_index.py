"""A package index on loopback, as PEP 503 has it: what is in a folder, for whoever knows the password."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lokki.builder.requirements.origins import normalize_name

USER, PASSWORD = "goose", "golden-egg"


@dataclass
class PackageIndex:
    """An index; ``asked``: the paths that were asked for by whoever may."""

    address: str
    folder: Path
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.address}/simple"

    @property
    def url_with_password(self) -> str:
        return f"http://{USER}:{PASSWORD}@{self.address}/simple"


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing: uv reads as much of a file as it needs, and goes."""


@contextmanager
def package_index(folder: Path) -> Iterator[PackageIndex]:
    """Serve the wheels and archives of a folder."""
    expected = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != expected:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic")
                self.end_headers()
                return
            index.asked.append(self.path)
            kind, _, name = self.path.strip("/").partition("/")
            files = {file.name: file for file in folder.iterdir() if file.is_file()}
            if kind == "files" and name in files:
                self._send("application/octet-stream", files[name].read_bytes())
                return
            found = [each for each in sorted(files) if normalize_name(each.split("-")[0]) == name]
            links = "".join(f'<a href="/files/{each}">{each}</a>' for each in found)
            if kind == "simple" and found:
                self._send("text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode())
            else:
                self.send_error(404)

        def do_HEAD(self) -> None:
            self.send_error(405)

        def _send(self, content_type: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with _Server(("127.0.0.1", 0), Handler) as server:
        index = PackageIndex(f"127.0.0.1:{server.server_port}", folder)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()
