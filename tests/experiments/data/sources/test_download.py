import hashlib
import http.server
import threading

import pytest

from experiments.data.sources.download import fetch

CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A server of CONTENT that may stop early or ignore ranges; `ranges` are the requested ones."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            server.ranges.append(wanted)
            start = int(wanted[len("bytes=") : -1]) if wanted and server.resumes else 0
            if start >= len(CONTENT):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : start + server.limit])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.ranges, server.resumes, server.limit = [], True, len(CONTENT)
    server.url = f"http://127.0.0.1:{server.server_port}/archive.tar.gz"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once(tmp_path, server):
    path = tmp_path / "cache/archive.tar.gz"
    for _ in range(2):
        assert fetch(server.url, path, MD5).read_bytes() == CONTENT
    assert server.ranges == [None]
    assert [file.name for file in path.parent.iterdir()] == ["archive.tar.gz"]


@pytest.mark.parametrize("resumes", [True, False])
def test_a_broken_download_continues_or_starts_over(tmp_path, server, resumes):
    path = tmp_path / "archive.tar.gz"
    server.limit, server.resumes = 1000, resumes
    with pytest.raises(ValueError, match=r"ended after 1000 of 256000 bytes.*run the same again"):
        fetch(server.url, path, MD5)
    assert not path.exists()
    server.limit = len(CONTENT)
    assert fetch(server.url, path, MD5).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]


def test_a_complete_download_that_was_not_renamed_is_used(tmp_path, server):
    (tmp_path / "archive.tar.gz.part").write_bytes(CONTENT)
    assert fetch(server.url, tmp_path / "archive.tar.gz", MD5).read_bytes() == CONTENT


def test_a_wrong_checksum_is_shown_beside_the_right_one_and_the_file_is_deleted(tmp_path, server):
    with pytest.raises(ValueError, match=f"MD5 sum is {MD5}, expected {'0' * 32}; it was deleted"):
        fetch(server.url, tmp_path / "archive.tar.gz", "0" * 32)
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_error_says_what_else_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"could not be downloaded.*set config\.data\.path"):
        fetch("http://127.0.0.1:9/archive.tar.gz", tmp_path / "archive.tar.gz", MD5)
