import dataclasses
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.data.catalogue import CorpusFile, check_file, fetch_file, public_sources, sources_of
from understudy.data.sources import DIALOGUE_SOURCES, TEXT_SOURCES
from understudy.errors import DataError

CONTENT = bytes(range(256)) * 40
OWN = {
    *("worlds", "worlds_as_played", "worlds_plain", "worlds_prose", "worlds_recast", "everyday"),
    *("worlds_calls", "worlds_idle", "made_calls", "cloudmere_prose"),
}


@pytest.fixture
def file() -> CorpusFile:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return CorpusFile(path="a/b.zst", sha256=digest, packed_bytes=len(CONTENT), documents=1)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "web" / "a").mkdir(parents=True)
    (tmp_path / "web" / "a" / "b.zst").write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_every_corpus_of_a_recipe_has_a_source() -> None:
    named = {name for source in public_sources() for name in source.corpora}
    assert (TEXT_SOURCES.keys() | DIALOGUE_SOURCES.keys()) - OWN <= named
    assert {source.licence for source in public_sources()} <= {"CC0-1.0", "CC-BY-4.0", "Apache-2.0", "MIT"}
    assert [source.title for source in sources_of(["books_dev"]) if source.evaluation]


def test_a_file_is_fetched_and_checked(tmp_path: Path, file: CorpusFile, mirror: str) -> None:
    sizes: list[int] = []
    fetch_file(file, tmp_path, mirror, sizes.append)
    assert sum(sizes) == len(CONTENT)
    assert (tmp_path / "a/b.zst").read_bytes() == CONTENT
    check_file(file, tmp_path)


def test_a_download_goes_on_where_it_stopped(tmp_path: Path, file: CorpusFile, mirror: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.zst.part").write_bytes(CONTENT[:5000])
    fetch_file(file, tmp_path, mirror, lambda _: None)
    assert (tmp_path / "a/b.zst").read_bytes() == CONTENT


def test_another_content_is_refused(tmp_path: Path, file: CorpusFile, mirror: str) -> None:
    with pytest.raises(DataError, match="not the file of the catalogue"):
        fetch_file(dataclasses.replace(file, sha256="0" * 64), tmp_path, mirror, lambda _: None)
    with pytest.raises(DataError, match="more for"):
        fetch_file(dataclasses.replace(file, packed_bytes=100), tmp_path, mirror, lambda _: None)
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch_file(dataclasses.replace(file, path="a/c.zst"), tmp_path, mirror, lambda _: None)
    with pytest.raises(DataError, match="no web address"):
        fetch_file(file, tmp_path / "x", "file:///etc", lambda _: None)
    assert not (tmp_path / "a/b.zst").exists()


def test_a_missing_file_is_named(tmp_path: Path, file: CorpusFile) -> None:
    with pytest.raises(DataError, match=r"b\.zst is missing"):
        check_file(file, tmp_path)
