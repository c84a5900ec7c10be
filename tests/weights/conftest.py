"""Local servers: of files that break off and resume, and of a Hugging Face hub."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Files:
    """What is served, and how; and what was asked for.

    Attributes:
        contents: By path.
        breaks_after: Bytes of one answer after which the connection is cut; None: never.
        resumes: Whether ranges are honoured.
        asked: (path, range) of each request.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.breaks_after: int | None = None
        self.resumes = True
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def files() -> Iterator[Files]:
    files = Files()

    class Handler(_Quiet):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            files.asked.append((self.path, wanted))
            content = files.contents.get(self.path)
            if content is None:
                return self.send_error(404)
            start = 0
            version = f'"{hashlib.sha1(content).hexdigest()}"'
            if wanted and files.resumes and self.headers.get("If-Range") == version:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", version)
            self.end_headers()
            self.wfile.write(content[start:][: files.breaks_after])

    with _serving(Handler) as files.url:
        yield files


class Hub:
    """A hub: files by "<owner>/<name>/<file>", and the tokens that came."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.url = ""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Quiet):
        def _json(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                return self._json({"url": f"{hub.url}/{asked['organization']}/{asked['name']}", "id": "1"})
            if self.path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            repository = "/".join(self.path.split("/")[3:5])
            if "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(body)["files"]]
                return self._json(
                    {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
                )
            if "/commit/" in self.path:
                for line in body.splitlines():
                    item = json.loads(line)
                    if item["key"] == "file":
                        content = base64.b64decode(item["value"]["content"])
                        hub.contents[f"{repository}/{item['value']['path']}"] = content
                return self._json({"commitUrl": f"{hub.url}/{repository}/commit/1", "commitOid": "1" * 40})
            self.send_error(404)

        def do_HEAD(self) -> None:
            self._file(head=True)

        def do_GET(self) -> None:
            self._file(head=False)

        def _file(self, *, head: bool) -> None:
            repository, _, rest = self.path.removeprefix("/").partition("/resolve/")
            content = hub.contents.get(f"{repository}/{rest.partition('/')[2]}")
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(200)
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not head:
                self.wfile.write(content)

    with _serving(Handler) as hub.url:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
