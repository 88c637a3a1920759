"""What is said when a download or a file fails: the true cause, by kind."""

from __future__ import annotations

import errno
import http.server
import ssl
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorflow import keras

from simclr_tf.files.load_failures import explain


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Serves five bytes; /STATUS answers with that status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = int(self.path[1:]) if self.path[1:].isdigit() else 200
            self.send_response(status)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://localhost:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(
    ("status", "advice"), [(403, "log in"), (404, "no longer"), (500, "later"), (429, "later")]
)
def test_what_keras_makes_of_a_servers_answer(
    server: str, tmp_path: Path, status: int, advice: str
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: B017
        keras.utils.get_file("file", f"{server}/{status}", cache_dir=str(tmp_path))
    failure = explain(caught.value)
    assert failure.kind == "refused"
    assert f"{server}/{status} with HTTP status {status}" in failure.reason
    assert advice in failure.advice


def test_a_changed_download_and_a_closed_port(server: str, tmp_path: Path) -> None:
    for address, more, kind in (
        (server, {"file_hash": "0" * 32}, "checksum"),
        ("http://localhost:1", {}, "network"),
        ("http://nobody.invalid", {}, "network"),
    ):
        with pytest.raises(Exception) as caught:  # noqa: B017
            keras.utils.get_file(
                f"{kind}{len(address)}", f"{address}/x", cache_dir=str(tmp_path), **more
            )
        assert explain(caught.value, cache="HERE").kind == kind
    assert "HERE" in explain(caught.value, cache="HERE").advice


def chained(inner: Exception) -> Exception:
    """As libraries do: a general exception, the true one two links below."""
    middle, outer = RuntimeError("could not load"), ValueError("no such preset")
    middle.__cause__ = inner
    outer.__context__ = middle
    return outer


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("inner", "kind"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (OSError(errno.EROFS, "Read-only file system"), "forbidden"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "missing"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "network"),
        (ssl.SSLCertVerificationError("certificate verify failed: self-signed"), "certificate"),
        (zipfile.BadZipFile("File is not a zip file"), "damaged"),
        (ModuleNotFoundError("No module named 'a_b'", name="a_b.c"), "package"),
        (KeyError("Unable to synchronously open object (object 'x' doesn't exist)"), "generation"),
        (ValueError("Layer 'conv1' expected 2 variables, but received 0 variables"), "generation"),
        (ValueError("Shape mismatch. The variable shape (3,), the value's (4,)"), "shapes"),
        (RuntimeError("OOM when allocating tensor with shape[9]"), "memory"),
        (RuntimeError("something new"), "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_whole_chain_is_read(inner: Exception, kind: str) -> None:
    assert explain(inner).kind == kind
    failure = explain(chained(inner))
    assert failure.kind == kind
    assert bool(failure.advice) == (kind != "unknown")
    assert "\n" not in failure.reason and not failure.reason.endswith(".")
    if kind == "package":
        assert "pip install a-b`" in failure.advice


@pytest.mark.one_lane
def test_a_chain_that_bites_its_tail_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert explain(one).reason == "one"
