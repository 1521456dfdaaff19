"""A session's file gives back what was said, whatever became of the rest."""

import dataclasses
import json
import logging
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.engine import Engine, GenerationRequest, KvLayout, KvPages, SamplingParams
from understudy.errors import RequestError, SaveError
from understudy.model.transformer import ReferenceBackend
from understudy.npc.fingerprint import ModelFingerprint
from understudy.npc.state import RandomState, kv_limit, load_state, planned_size, restore_kv, save_state
from understudy.testing import byte_tokenizer, tiny_model

PERSONA = "You are Bram, and you keep the bridge. "
TALK = PERSONA + "Who goes there? A friend."
DOCUMENT = {"said": ["Who goes there?", "A friend. \u00e9\u2028\U0001f309"], "memory": {"name": "Mara"}}

Open = Callable[..., tuple[Engine, ModelFingerprint]]


@pytest.fixture
def fresh() -> Iterator[Open]:
    """A new engine with a tiny model, as after a restart, and its fingerprint."""
    engines: list[Engine] = []

    def opened(**changes: Any) -> tuple[Engine, ModelFingerprint]:
        model = tiny_model(**changes)
        backend = ReferenceBackend(model.config, model.weights)
        engines.append(Engine(backend, model.tokenizer))
        return engines[-1], ModelFingerprint.of(model, KvLayout.of(backend))

    yield opened
    for engine in engines:
        engine.close()


def ids(text: str) -> tuple[int, ...]:
    return tuple(byte_tokenizer().encode(text))


def exported(engine: Engine, text: str = TALK) -> KvPages:
    engine.warm(ids(text)).text()
    kept = engine.export_prefix(ids(text), start=len(PERSONA))
    assert kept is not None
    return kept


def answer(engine: Engine) -> tuple[list[int], int]:
    sampling = SamplingParams(seed=5, temperature=0.9)
    generation = engine.submit(GenerationRequest(prompt_ids=ids(TALK + " Pass!"), sampling=sampling, max_tokens=40))
    return [i for c in generation for i in c.token_ids], generation.usage.cached_tokens


@pytest.fixture
def saved(fresh: Open, tmp_path: Path) -> Path:
    """A file with keys and values."""
    engine, fingerprint = fresh()
    path = tmp_path / "bram.understudy"
    save_state(path, DOCUMENT, fingerprint=fingerprint, kv=exported(engine))
    return path


def rewritten(path: Path, name: str, data: bytes | Callable[[Any], Any], *, method: int = zipfile.ZIP_STORED) -> None:
    """Replace one member of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    if not isinstance(data, bytes):
        data = json.dumps(data(json.loads(members[name]))).encode()
    members[name] = data
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content, method if member == name else zipfile.ZIP_STORED)


def test_everything_comes_back(fresh: Open, saved: Path) -> None:
    first, _ = fresh()
    expected, _ = answer(first)
    for with_kv in (True, False):
        engine, fingerprint = fresh()
        state = load_state(saved, engine=engine, fingerprint=fingerprint)
        assert state.document == DOCUMENT
        assert state.reason is None
        assert state.kv is not None
        if with_kv:
            assert restore_kv(engine, state.kv) == len(TALK)
            assert engine.stats().prefilled_tokens == len(PERSONA)  # which many sessions share
        assert answer(engine) == (expected, len(TALK) if with_kv else 0)


def test_the_size_is_told_before(fresh: Open, tmp_path: Path) -> None:
    engine, fingerprint = fresh()
    kept = exported(engine)
    for kv, limit in ((None, None), (kept, None), (kept, 4000)):
        planned = planned_size(
            DOCUMENT, engine=engine, token_ids=ids(TALK) if kv else (), start=len(PERSONA), max_kv_bytes=limit
        )
        written = save_state(tmp_path / "s", DOCUMENT, fingerprint=fingerprint, kv=kv, max_kv_bytes=limit)
        assert written == (tmp_path / "s").stat().st_size
        assert written <= planned.total_bytes == planned.text_bytes + planned.kv_bytes
        assert planned.total_bytes <= written * (1.5 if kv else 1) + 2000
        if limit:
            assert planned.kv_bytes == limit


def test_keys_and_values_take_no_more_than_they_may(fresh: Open, tmp_path: Path) -> None:
    """The first tokens that fit, the model reads the rest, and the next words are the same."""
    engine, fingerprint = fresh()
    kv = exported(engine)
    expected, _ = answer(engine)
    path = tmp_path / "s"
    text_bytes = save_state(path, DOCUMENT, fingerprint=fingerprint)
    whole = save_state(path, DOCUMENT, fingerprint=fingerprint, kv=kv) - text_bytes
    kept = []
    for limit in (0, 500, whole // 4, whole // 2, whole, 2 * whole):
        added = save_state(path, DOCUMENT, fingerprint=fingerprint, kv=kv, max_kv_bytes=limit) - text_bytes
        assert 0 <= added <= limit
        again, _ = fresh()
        found = load_state(path, engine=again, fingerprint=fingerprint)
        assert found.reason is None
        kept.append(found.kv.num_tokens if found.kv else 0)
        if found.kv:
            assert added > limit - whole / kv.num_tokens - 500 or kept[-1] == kv.num_tokens
            assert restore_kv(again, found.kv) == len(PERSONA) + kept[-1]
        assert answer(again) == (expected, len(PERSONA) + kept[-1] if kept[-1] else 0)
    assert kept == sorted(kept)
    assert kept[0] == kept[1] == 0 < kept[2] < kept[3] < kept[5] == kv.num_tokens


def test_a_limit_by_the_models_shape(fresh: Open) -> None:
    config = fresh()[0].backend.config
    plain = 2 * config.num_hidden_layers * config.num_key_value_heads * (config.head_dim + 4)
    assert kv_limit(config, 100, 0.4) == 40 * plain
    assert kv_limit(config, 0, 1) == 0
    assert kv_limit(config, 100, None) is None
    for share in (0, -0.1, 101, float("nan"), float("inf")):
        with pytest.raises(RequestError, match="kv_share"):
            kv_limit(config, 100, share)


def test_the_same_session_gives_the_same_bytes(fresh: Open, tmp_path: Path) -> None:
    engine, fingerprint = fresh()
    kept = exported(engine)
    for name in "ab":
        save_state(tmp_path / name, DOCUMENT, fingerprint=fingerprint, kv=kept)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_tool_opens_the_file(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        assert archive.namelist() == ["session.json", "state.json", "kv.zlib"]
        assert archive.testzip() is None
        assert json.loads(archive.read("session.json")) == DOCUMENT


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seed": 1}, "its weights differ"),
        ({"max_position_embeddings": 2048}, "its shape differs"),
        ({"num_hidden_layers": 3}, "another model"),
    ],
)
def test_another_model_reads_the_text_again(
    fresh: Open, saved: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], why: str
) -> None:
    engine, fingerprint = fresh(**changes)
    with caplog.at_level(logging.WARNING):
        state = load_state(saved, engine=engine, fingerprint=fingerprint)
    assert (state.document, state.kv) == (DOCUMENT, None)
    assert state.reason is not None
    assert why in state.reason
    assert why in caplog.text


@pytest.mark.parametrize("part", ["tokenizer", "kv_format"])
def test_another_tokenizer_or_backend_reads_the_text_again(fresh: Open, saved: Path, part: str) -> None:
    engine, fingerprint = fresh()
    other = dataclasses.replace(fingerprint, **{part: "other"})
    state = load_state(saved, engine=engine, fingerprint=other)
    assert (state.document, state.kv) == (DOCUMENT, None)
    assert "another model" in str(state.reason)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("state.json", lambda s: {**s, "version": 2}),
        ("state.json", lambda s: {**s, "format": "other"}),
        ("state.json", lambda s: {**s, "model": None}),
        ("state.json", lambda s: []),
        ("state.json", b"{"),
        ("state.json", b"[" * 100_000),
        ("state.json", lambda s: {**s, "kv": 5}),
        ("state.json", lambda s: {**s, "kv": {}}),
        ("state.json", lambda s: {**s, "kv": {**s["kv"], "token_ids": "abc"}}),
        ("state.json", lambda s: {**s, "kv": {**s["kv"], "token_ids": [1] * 100_000}}),
        ("state.json", lambda s: {**s, "kv": {**s["kv"], "token_ids": [*s["kv"]["token_ids"][:-1], 99_999]}}),
        ("state.json", lambda s: {**s, "kv": {**s["kv"], "token_ids": [*s["kv"]["token_ids"][:-1], True]}}),
        ("state.json", lambda s: {**s, "kv": {**s["kv"], "token_ids": [*s["kv"]["token_ids"][:-1], 20]}}),
        ("state.json", lambda s: {**s, "kv": {**s["kv"], "token_ids": [*s["kv"]["token_ids"], 20]}}),
        ("state.json", lambda s: {**s, "kv": {**s["kv"], "start": -1}}),
        ("state.json", lambda s: {**s, "kv": {**s["kv"], "start": 1e9}}),
        ("state.json", lambda s: {**s, "kv": {**s["kv"], "start": s["kv"]["start"] + 1}}),
        ("state.json", lambda s: {**s, "kv": {**s["kv"], "digest": "0" * 64}}),
        ("kv.zlib", b""),
        ("kv.zlib", b"x" * 1000),
        ("kv.zlib", b"\0" * 100_000),
    ],
)
def test_keys_and_values_that_cannot_be_trusted_are_left_out(
    fresh: Open, saved: Path, name: str, change: bytes | Callable[[Any], Any]
) -> None:
    rewritten(saved, name, change)
    engine, fingerprint = fresh()
    state = load_state(saved, engine=engine, fingerprint=fingerprint)
    assert (state.document, state.kv) == (DOCUMENT, None)
    assert state.reason


def test_a_bomb_is_not_unpacked(fresh: Open, saved: Path) -> None:
    engine, fingerprint = fresh()
    rewritten(saved, "kv.zlib", bytes(5_000_000), method=zipfile.ZIP_DEFLATED)
    assert load_state(saved, engine=engine, fingerprint=fingerprint).kv is None
    rewritten(saved, "session.json", bytes(5_000_000), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(SaveError, match="damaged beyond"):
        load_state(saved, engine=engine, fingerprint=fingerprint)


def test_damage_never_changes_an_answer(fresh: Open, saved: Path, tmp_path: Path) -> None:
    """A flipped byte anywhere, or an end that is cut off: the text comes back, or a clear error."""
    engine, fingerprint = fresh()
    good = saved.read_bytes()
    whole = load_state(saved, engine=engine, fingerprint=fingerprint).kv
    assert whole is not None
    path, chance = tmp_path / "damaged", random.Random(3)
    places = [*range(60), *(chance.randrange(len(good)) for _ in range(60)), *range(len(good) - 120, len(good))]
    damaged = [good[:n] + bytes([good[n] ^ 1 << chance.randrange(8)]) + good[n + 1 :] for n in places]
    damaged += [good[: len(good) * n // 40] for n in range(40)]
    kept = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            state = load_state(path, engine=engine, fingerprint=fingerprint)
        except SaveError:
            continue
        kept += 1
        assert state.document == DOCUMENT
        if state.kv is not None:
            assert state.kv.token_ids == whole.token_ids
            assert (state.kv.pages == whole.pages).all()
    assert kept > len(damaged) * 0.6


def test_a_cut_file_still_gives_what_was_said(fresh: Open, saved: Path) -> None:
    engine, fingerprint = fresh()
    saved.write_bytes(saved.read_bytes()[:-2000])
    state = load_state(saved, engine=engine, fingerprint=fingerprint)
    assert (state.document, state.kv) == (DOCUMENT, None)
    assert "damaged" in str(state.reason)


def test_a_plain_json_file_of_earlier_versions(fresh: Open, tmp_path: Path) -> None:
    engine, fingerprint = fresh()
    (tmp_path / "old").write_text(json.dumps(DOCUMENT), encoding="utf-8-sig")
    state = load_state(tmp_path / "old", engine=engine, fingerprint=fingerprint)
    assert (state.document, state.kv, state.reason) == (DOCUMENT, None, None)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"{", b"{" * 100_000, b"hello", b'{"a": "\xff"}'])
def test_other_files_are_refused(fresh: Open, tmp_path: Path, content: bytes) -> None:
    engine, fingerprint = fresh()
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SaveError, match=r"Give|Take"):
        load_state(tmp_path / "x", engine=engine, fingerprint=fingerprint)
    with pytest.raises(SaveError, match="Cannot read"):
        load_state(tmp_path / "none", engine=engine, fingerprint=fingerprint)


def test_what_cannot_be_saved_leaves_the_old_file(fresh: Open, saved: Path) -> None:
    _, fingerprint = fresh()
    before = saved.read_bytes()
    for document in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises(SaveError, match="JSON"):
            save_state(saved, document, fingerprint=fingerprint)
    with pytest.raises(SaveError, match="Cannot save"):
        save_state(saved / "x", DOCUMENT, fingerprint=fingerprint)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_the_random_state_goes_on_where_it_was() -> None:
    chance = RandomState(seed=7)
    drawn = [chance.next_seed() for _ in range(3)]
    again = RandomState.from_json(json.loads(json.dumps(chance.to_json())))
    assert [chance.next_seed() for _ in range(3)] == [again.next_seed() for _ in range(3)]
    assert len({*drawn, *(RandomState(seed=8).next_seed() for _ in range(1))}) == 4
    for seed in drawn:
        SamplingParams(seed=seed)
    for wrong in (
        None,
        [],
        {"seed": 1},
        {"seed": 1, "num_drawn": -1},
        {"seed": "1", "num_drawn": 0},
        {"seed": 1 << 70},
    ):
        with pytest.raises(SaveError, match="random state"):
            RandomState.from_json(wrong)
