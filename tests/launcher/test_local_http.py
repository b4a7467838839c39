"""What a process of this machine is asked does not go by way of a proxy, whatever the environment says."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from launcher.local_http import ask
from launcher.stack import answers


class Yes(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"yes")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Yes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_that_does_not_answer_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch, url: str, name: str) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    with ask(url, seconds=5) as reply:
        assert reply.read() == b"yes"
    assert answers(url)
    assert not answers("http://127.0.0.1:9/")
