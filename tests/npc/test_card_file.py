"""Cards of all versions in all files: what goes in comes out, and what is damaged is refused."""

import base64
import contextlib
import dataclasses
import io
import json
import random
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import CardError
from understudy.npc.card import Asset, Card
from understudy.npc.card_versions import card_version, convert_card
from understudy.npc.png import PNG_SIGNATURE, encode_rgb

PICTURE = encode_rgb([bytes(range(n, n + 12)) for n in range(4)])
LETTERS = 'abz ÄßéЖ龍の🐉\u200d\u0301\n\t"\\{}<>&\0\x7f'
MAX_MEMORY = 256 << 20
MAX_SECONDS = 10


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, picture: bytes = PICTURE) -> bytes:
    """The picture with these chunks before its end."""
    return picture[:-12] + b"".join(chunks) + picture[-12:]


def text_chunk(keyword: str, document: Any) -> bytes:
    return chunk(b"tEXt", keyword.encode() + b"\0" + base64.b64encode(json.dumps(document).encode()))


def charx(document: Any, **files: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("card.json", document if isinstance(document, bytes) else json.dumps(document))
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


# -- round trips


def words(luck: random.Random, length: int = 12) -> str:
    return "".join(luck.choices(LETTERS, k=luck.randrange(length)))


def value(luck: random.Random, depth: int = 0) -> Any:
    kind = luck.randrange(8 if depth < 3 else 5)
    if kind == 5:
        return [value(luck, depth + 1) for _ in range(luck.randrange(3))]
    if kind > 5:
        return {words(luck): value(luck, depth + 1) for _ in range(luck.randrange(3))}
    return luck.choice([None, True, luck.randrange(-(10**12), 10**12), luck.random(), words(luck)])


def unknown(luck: random.Random) -> dict[str, Any]:
    return {f"x_{words(luck)}": value(luck) for _ in range(luck.randrange(1, 4))}


def book(luck: random.Random, version: str) -> dict[str, Any]:
    def entry() -> dict[str, Any]:
        lines = luck.choice(["", "@@depth 2\n", "@@risu_only\n@@@depth 1\n\n"]) if version == "v3" else ""
        extensions = {"probability": luck.randrange(101), "sticky": luck.choice([None, 2]), **unknown(luck)}
        return {
            "keys": [words(luck) for _ in range(luck.randrange(3))],
            "content": lines + "Text. " + words(luck),
            "extensions": extensions,
            "enabled": luck.random() < 0.8,
            "insertion_order": luck.randrange(200),
            "id": luck.choice([luck.randrange(9), words(luck)]),
            **unknown(luck),
        }

    entries = [entry() for _ in range(luck.randrange(4))]
    return {"name": words(luck), "extensions": unknown(luck), "entries": entries, **unknown(luck)}


def document(luck: random.Random, version: str) -> dict[str, Any]:
    texts = ("description", "personality", "scenario", "first_mes", "mes_example")
    data: dict[str, Any] = {"name": "Ada " + words(luck), **{key: words(luck, 60) for key in texts}, **unknown(luck)}
    if version == "v1":
        return {**data, "goals": words(luck), "tools": ["ring"]} if luck.random() < 0.5 else data
    data |= {key: words(luck) for key in ("creator_notes", "system_prompt", "creator", "character_version")}
    data |= {"tags": [words(luck)], "alternate_greetings": [words(luck), words(luck)]}
    data["extensions"] = {**unknown(luck), **({"understudy": {"goals": words(luck)}} if luck.random() < 0.5 else {})}
    data["character_book"] = book(luck, version)
    if version == "v3":
        data |= {"nickname": words(luck), "group_only_greetings": [words(luck)], "creation_date": luck.randrange(2**31)}
        data |= {"creator_notes_multilingual": {"de": words(luck)}, "source": [words(luck)]}
        assets = [{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png", **unknown(luck)}]
        data["assets"] = luck.choice([None, assets])
    spec = {"spec": f"chara_card_{version}", "spec_version": f"{version[1]}.0"}
    return {**spec, "data": data, **{f"y{key}": x for key, x in unknown(luck).items()}}


def holds(larger: Any, smaller: Any) -> bool:
    """Whether all fields are there still; further ones may be."""
    if isinstance(smaller, dict):
        return isinstance(larger, dict) and all(k in larger and holds(larger[k], v) for k, v in smaller.items())
    if isinstance(smaller, list):
        return isinstance(larger, list) and len(larger) == len(smaller) and all(map(holds, larger, smaller))
    return type(larger) is type(smaller) and larger == smaller


VERSIONS = ("v1", "v2", "v3")
ENDINGS = ("json", "png", "apng", "charx")
# (seed, version, ending): each pair of version and ending 25 times
GENERATED = [(seed, VERSIONS[seed % 3], ENDINGS[seed // 3 % 4]) for seed in range(300)]


def without_assets(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "data": {key: x for key, x in given["data"].items() if key != "assets"}}


def test_300_cards_come_out_as_they_went_in(tmp_path: Path) -> None:
    for seed, version, ending in GENERATED:
        given = document(random.Random(seed), version)
        card = dataclasses.replace(Card.from_json(given), picture=PICTURE)
        assert card.to_json() == given
        path = tmp_path / f"card.{ending}"
        card.save(path)
        again = Card.load(path)
        found = again.to_json()
        if ending != "charx":
            assert found == given
        elif version == "v3":
            assert without_assets(found) == without_assets(given)
            assert [asset.uri for asset in again.assets] == ["embeded://assets/icon/images/main.png"]
        else:
            back = convert_card(found, version)
            assert holds(back, given)
            assert again.version == "v3"
        assert again.picture == (b"" if ending == "json" else PICTURE)
        assert again.lorebook == card.lorebook


def test_300_cards_turn_into_other_versions_and_back() -> None:
    for seed, version, _ in GENERATED:
        given = document(random.Random(seed), version)
        for other in VERSIONS:
            turned = convert_card(given, other)
            assert card_version(turned) == other
            back = convert_card(turned, version)
            if version != "v1" and other == "v1":  # V1 has one level only: what stood beside "data" is in it now
                around = {key: x for key, x in given.items() if key not in ("spec", "spec_version", "data")}
                assert holds(back["data"], {**around, **given["data"]})
            else:
                assert holds(back, given)
            assert dataclasses.replace(Card.from_json(back), extensions={}) == dataclasses.replace(
                Card.from_json(given), extensions={}
            )


def test_decorators_do_not_reach_programs_that_know_none() -> None:
    given = document(random.Random(2), "v3")
    given["data"]["character_book"] = {"entries": [{"keys": ["a"], "content": "@@depth 2\n\nText.", "extensions": {}}]}
    old = convert_card(given, "v2")
    assert old["data"]["character_book"]["entries"][0]["content"] == "Text."
    assert convert_card(old, "v3")["data"]["character_book"]["entries"][0]["content"] == "@@depth 2\n\nText."
    old["data"]["character_book"]["entries"][0]["content"] = "Edited."
    assert convert_card(old, "v3")["data"]["character_book"]["entries"][0]["content"] == "Edited."


def test_a_v3_picture_has_a_copy_for_old_programs(tmp_path: Path) -> None:
    path = tmp_path / "card.png"
    dataclasses.replace(Card.from_json(document(random.Random(2), "v3")), picture=PICTURE).save(path)
    content = path.read_bytes()
    packed = content[content.index(b"chara\0") + 6 : content.index(b"tEXtccv3") - 8]
    old = json.loads(base64.b64decode(packed))
    assert (old["spec"], Card.from_json(old).description) == ("chara_card_v2", Card.load(path).description)
    assert old["data"]["creator_notes"].startswith("This card is of version 3")


def test_pictures_are_kept_byte_for_byte(tmp_path: Path) -> None:
    frame = struct.pack(">IIIIIHHBB", 0, 4, 4, 0, 0, 1, 10, 0, 0)
    animated = PICTURE[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", frame) + PICTURE[33:]
    odd = png(chunk(b"tEXt", b"Title\0A smith"), chunk(b"prVt", b"?"), picture=animated) + b"trailing"
    path = tmp_path / "card.png"
    dataclasses.replace(Card(name="Ada"), picture=odd).save(path)
    Card.load(path).save(path)
    assert Card.load(path).picture == odd
    with pytest.importorskip("PIL.Image").open(path) as image:
        image.load()
        assert image.size == (4, 4)
        assert image.convert("RGB").tobytes() == b"".join(bytes(range(n, n + 12)) for n in range(4))
        assert json.loads(base64.b64decode(image.text["chara"])) == {"name": "Ada"}


V3 = {"spec": "chara_card_v3", "spec_version": "3.0", "data": {"name": "New"}}
PACKED = base64.b64encode(json.dumps({"name": "Old"}).encode())


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (png(text_chunk("chara", {"name": "Old"})), "Old"),
        (png(text_chunk("Chara", {"name": "Old"})), "Old"),
        (png(text_chunk("chara", {"name": "Old"}), text_chunk("ccv3", V3)), "New"),
        (png(text_chunk("ccv3", V3), text_chunk("chara", {"name": "Old"})), "New"),
        (png(text_chunk("chara", {"name": "Old"}), text_chunk("chara", {"name": "Second"})), "Old"),
        (png(chunk(b"zTXt", b"chara\0\0" + zlib.compress(PACKED))), "Old"),
        (png(chunk(b"iTXt", b"chara\0\0\0en\0\0" + PACKED)), "Old"),
        (png(chunk(b"iTXt", b"chara\0\1\0\0\0" + zlib.compress(PACKED))), "Old"),
        (png(chunk(b"tEXt", b"chara\0" + PACKED.rstrip(b"=")[:9] + b"\n" + PACKED.rstrip(b"=")[9:])), "Old"),
        (charx(V3), "New"),
        (charx({"name": "Old"}, **{"assets/a.txt": b"a"}), "Old"),
        (b"\xef\xbb\xbf" + json.dumps(V3).encode(), "New"),
        (json.dumps({**V3, "spec_version": "3.7"}).encode(), "New"),
    ],
)
def test_the_content_says_what_a_file_is(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / "card.dat"
    path.write_bytes(content)
    assert Card.load(path).name == name


def test_files_move_between_archive_and_picture(tmp_path: Path) -> None:
    assets = [
        {"type": "emotion", "uri": "embeded://assets/emotion/images/happy.png", "name": "happy", "ext": "png"},
        {"type": "icon", "uri": "embeded://assets/icon/images/main.png", "name": "main", "ext": "png"},
    ]
    files = {"assets/emotion/images/happy.png": b"happy", "assets/icon/images/main.png": PICTURE, "app.json": b"{}"}
    archive, picture, last = tmp_path / "a.charx", tmp_path / "a.png", tmp_path / "last.charx"
    archive.write_bytes(charx({**V3, "data": {"name": "Ada", "assets": assets}}, **files))
    Card.load(archive).save(picture)
    card = Card.load(picture)
    assert [asset.uri for asset in card.assets] == ["__asset:assets/emotion/images/happy.png", "ccdefault:"]
    assert [card.asset(asset) for asset in card.assets] == [b"happy", PICTURE]
    card.save(last)
    again = Card.load(last)
    assert {asset.name: again.asset(asset) for asset in again.assets} == {"happy": b"happy", "main": PICTURE}
    assert again.files == files


def test_assets_elsewhere_are_not_fetched() -> None:
    card = Card(name="Ada")
    assert card.asset(Asset(uri="data:text/plain;base64,aGk=")) == b"hi"
    for uri in ("https://example.org/a.png", "embeded://none", "file:///etc/passwd", "ccdefault:"):
        with pytest.raises(CardError, match="not in the card"):
            card.asset(Asset(uri=uri))


def test_half_surrogates_survive_where_nobody_reads_them(tmp_path: Path) -> None:
    card = Card.from_json({"name": "Ada", "x": "\ud800"})
    card.save(tmp_path / "a.json")
    assert Card.load(tmp_path / "a.json").raw == {"name": "Ada", "x": "\ud800"}


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    dataclasses.replace(Card(name="Ada"), picture=PICTURE).save(path)
    before = path.read_bytes()
    with pytest.raises(CardError, match="Give a PNG picture"):
        Card(name="Bo").save(path)
    with pytest.raises(CardError, match="folder that exists"):
        Card(name="Bo").save(tmp_path / "no" / "a.json")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# -- damaged files


def zeros() -> bytes:
    """A gigabyte of zeros, deflated, without an end: a mebibyte of it, many times."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)) * 64


def archive_of(name: bytes, data: bytes, size: int) -> bytes:
    """An archive of one deflated file, which its index says has this size."""
    sizes = struct.pack("<IIIHH", 0, len(data), size, len(name), 0)
    head = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + name
    index = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + sizes + struct.pack("<HHHII", 0, 0, 0, 0, 0)
    index += name
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(index), len(head) + len(data), 0)
    return head + data + index + end


def with_path(name: str) -> bytes:
    return charx(V3, **{name: b"x"})


def encrypted() -> bytes:
    content = bytearray(charx(V3))
    content[content.index(b"PK\1\2") + 8] |= 1
    return bytes(content)


def packed_by(method: int) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        archive.writestr("card.json", json.dumps(V3))
    return target.getvalue()


def twice() -> bytes:
    return charx(V3, **{"card.jsom": b"{}"}).replace(b"card.jsom", b"card.json")


def spoiled(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


GOOD = png(text_chunk("chara", {"name": "Ada"}))
ENTRY = {"keys": ["a"], "content": "b"}


def with_book(**changes: Any) -> bytes:
    return json.dumps({"name": "Ada", "character_book": {"entries": [{**ENTRY, **changes}]}}).encode()


def v3_with(**changes: Any) -> bytes:
    return json.dumps({**V3, "data": {**V3["data"], **changes}}).encode()  # type: ignore[dict-item]


DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty file": (lambda: b"", "no valid JSON"),
    "half a JSON": (lambda: b'{"name": "Ada", ', "no valid JSON"),
    "no UTF-8": (lambda: b'{"name": "\xff"}', "no UTF-8 text"),
    "UTF-16": (lambda: '{"name": "Ada"}'.encode("utf-16"), "no UTF-8 text"),
    "a JPEG": (lambda: b"\xff\xd8\xff\xe0" + bytes(99), "no UTF-8 text"),
    "50 MB of text": (lambda: b'{"name": "' + b"a" * 50_000_000 + b'"}', "larger than 4 MiB"),
    "50 MB of brackets": (lambda: b"[" * 50_000_000, "larger than 4 MiB"),
    "4 MB of brackets": (lambda: b"[" * 4_000_000, "nested too deeply"),
    "lists": (lambda: b"[" + b"[]," * 100_000 + b"1]", "must be a JSON object"),
    "nested 900 deep": (lambda: b'{"name": "Ada", "x": ' + b"[" * 900 + b"]" * 900 + b"}", "nested"),
    "nested 70 deep": (lambda: b'{"name": "Ada", "x": ' + b"[" * 70 + b"]" * 70 + b"}", "nested more than 64"),
    "a number of 10,000 digits": (lambda: b'{"name": "Ada", "x": ' + b"9" * 10_000 + b"}", "no valid JSON"),
    "an infinite number": (lambda: b'{"name": "Ada", "x": 1e999}', "a number in it is infinite"),
    "NaN": (lambda: b'{"name": "Ada", "x": NaN}', "a number in it is infinite or none"),
    "a list": (lambda: b'["Ada"]', "must be a JSON object"),
    "a text": (lambda: b'"Ada"', "must be a JSON object"),
    "no name": (lambda: b"{}", "has no name"),
    "an empty name": (lambda: b'{"name": " \\n "}', "has no name"),
    "a name of a number": (lambda: b'{"name": 3}', '"name" must be a text'),
    "a name of half a letter": (lambda: b'{"name": "\\ud800"}', "surrogate"),
    "another spec": (lambda: b'{"spec": "chara_card_v9", "data": {}}', "says spec 'chara_card_v9'"),
    "a spec of another type": (lambda: b'{"spec": [2], "data": {}}', "says spec [2]"),
    "an old spec_version": (lambda: json.dumps({**V3, "spec_version": "2.0"}).encode(), 'expected "3.0"'),
    "data without spec": (lambda: b'{"data": {"name": "Ada"}}', 'has "data" but no "spec"'),
    "data of a list": (lambda: b'{"spec": "chara_card_v2", "data": []}', '"data" must be an object'),
    "greetings of a text": (lambda: v3_with(alternate_greetings="Hi"), '"alternate_greetings" must be a list'),
    "tags of numbers": (lambda: v3_with(tags=[1]), '"tags" must be a list of texts'),
    "extensions of a list": (lambda: v3_with(extensions=[1]), '"extensions" must be an object'),
    "our extension of a text": (lambda: v3_with(extensions={"understudy": "x"}), '"understudy"'),
    "notes of a list": (lambda: v3_with(creator_notes_multilingual=[]), "creator_notes_multilingual"),
    "notes of a number": (lambda: v3_with(creator_notes_multilingual={"de": 1}), '"de" must be a text'),
    "assets of a text": (lambda: v3_with(assets="a.png"), '"assets" must be a list'),
    "an asset of a text": (lambda: v3_with(assets=["a.png"]), "asset 0 must be an object"),
    "an asset without a text": (lambda: v3_with(assets=[{"uri": 3}]), '"uri" must be a text'),
    "a book of a list": (lambda: v3_with(character_book=[1]), '"character_book" must be an object'),
    "a book without entries": (lambda: v3_with(character_book={"name": "x"}), 'needs "entries"'),
    "keys of a text": (lambda: with_book(keys="a, b"), 'entry 0: "keys" must be a list of texts'),
    "content of a list": (lambda: with_book(content=["b"]), '"content" must be a text'),
    "order of a text": (lambda: with_book(insertion_order="1"), '"insertion_order" must be a number'),
    "a PNG cut in its head": (lambda: GOOD[:20], "truncated PNG"),
    "a PNG cut in its card": (lambda: GOOD[: GOOD.index(b"chara") + 9], "truncated PNG"),
    "a PNG cut before its end": (lambda: GOOD[:-12], "ends before its IEND"),
    "a PNG of its signature": (lambda: PNG_SIGNATURE, "truncated PNG"),
    "a PNG with a spoiled card": (lambda: spoiled(GOOD, GOOD.index(b"chara") + 9), "checksum of its chunk 'tEXt'"),
    "a PNG with a spoiled picture": (lambda: spoiled(GOOD, GOOD.index(b"IDAT") + 6), "checksum of its chunk 'IDAT'"),
    "a PNG with a chunk of 4 GB": (lambda: PNG_SIGNATURE + b"\xff\xff\xff\xffIHDR" + bytes(99), "truncated PNG"),
    "a PNG that begins with its end": (lambda: PNG_SIGNATURE + chunk(b"IEND", b""), "does not begin with its IHDR"),
    "a PNG without a picture": (
        lambda: PNG_SIGNATURE + chunk(b"IHDR", bytes(13)) + text_chunk("chara", {}) + chunk(b"IEND", b""),
        "has no picture",
    ),
    "a PNG without a card": (lambda: PICTURE, "picture without a card"),
    "a PNG with wrong base64": (lambda: png(chunk(b"tEXt", b"chara\0*?*")), "no valid base64"),
    "a PNG with JSON in plain": (lambda: png(chunk(b"tEXt", b'chara\0{"name": "Ada"}')), "no valid base64"),
    "a PNG with base64 of nothing": (lambda: png(chunk(b"tEXt", b"chara\0")), "no valid JSON"),
    "a PNG with base64 of noise": (lambda: png(chunk(b"tEXt", b"chara\0" + base64.b64encode(b"\xff" * 9))), "no UTF-8"),
    "a PNG with a broken ccv3": (
        lambda: png(text_chunk("chara", {"name": "A"}), text_chunk("ccv3", [])),
        "JSON object",
    ),
    "a PNG with a zlib bomb": (lambda: png(chunk(b"zTXt", b"chara\0\0\x78\xda" + zeros())), "longer than 8 MiB"),
    "a PNG with half a zlib": (lambda: png(chunk(b"zTXt", b"chara\0\0" + zlib.compress(PACKED)[:9])), "ends too early"),
    "a PNG with no zlib": (lambda: png(chunk(b"zTXt", b"chara\0\0xyz")), "cannot be unpacked"),
    "a PNG with half an iTXt": (lambda: png(chunk(b"iTXt", b"chara\0\0\0en")), "damaged iTXt"),
    "a PNG with 12 MB of card": (lambda: png(chunk(b"tEXt", b"chara\0" + b"QUFB" * 3_000_000)), "longer than 8 MiB"),
    "a PNG of more than 64 MB": (lambda: PNG_SIGNATURE + bytes(64 << 20), "larger than 64 MiB"),
    "an empty archive": (lambda: b"PK\5\6" + bytes(18), "no card.json"),
    "an archive without a card": (lambda: charx(V3).replace(b"card.json", b"cart.json"), "no card.json at its root"),
    "an archive cut in two": (lambda: charx(V3)[:60], "damaged archive"),
    "an archive with a spoiled card": (lambda: spoiled(charx(V3), 45), "damaged archive"),
    "a zip bomb": (lambda: archive_of(b"a.bin", zeros(), 1 << 30), "unpacks to 1024 MiB"),
    "a zip bomb of a card": (lambda: archive_of(b"card.json", zeros(), 1 << 30), "card.json is larger than 4 MiB"),
    "a zip bomb that lies": (lambda: archive_of(b"card.json", zeros(), 100), "damaged archive"),
    "2001 files": (lambda: charx(V3, **{f"{n}.txt": b"" for n in range(2001)}), "at most 2000"),
    "an encrypted archive": (encrypted, "is encrypted"),
    "an archive packed by LZMA": (lambda: packed_by(zipfile.ZIP_LZMA), "packed by method 14"),
    "an archive with two cards": (twice, "holds 'card.json' twice"),
    "a path upwards": (lambda: with_path("../../evil.sh"), "leads out of it"),
    "a path upwards within": (lambda: with_path("assets/../../evil.sh"), "leads out of it"),
    "a path from the root": (lambda: with_path("/etc/passwd"), "leads out of it"),
    "a path with a drive": (lambda: with_path("C:evil.exe"), "leads out of it"),
    "a path with backslashes": (lambda: with_path("..\\evil.exe"), "leads out of it"),
    "an archive with a list": (lambda: charx([]), "must be a JSON object"),
    "an archive with half a JSON": (lambda: charx(json.dumps(V3).encode()[:-1]), "no valid JSON"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_cards_are_refused_in_bounded_time_and_memory(tmp_path: Path, name: str) -> None:
    make, problem = DAMAGED[name]
    path = tmp_path / "card.dat"
    path.write_bytes(make())
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(CardError) as caught:
            Card.load(path)
        seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert problem in message
    assert str(path) in message
    assert message.endswith((".", "}"))
    assert "\n" not in message
    assert len(message) < 600
    assert seconds < MAX_SECONDS
    assert peak < MAX_MEMORY


@pytest.mark.slow
def test_the_worst_json_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(b"[" + b"{}," * 1_390_000 + b"1]")
    tracemalloc.start()
    with pytest.raises(CardError, match="must be a JSON object"):
        Card.load(path)
    assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY
    tracemalloc.stop()


def test_there_are_enough_damages() -> None:
    assert len(DAMAGED) >= 60


def test_any_single_byte_may_be_spoiled(tmp_path: Path) -> None:
    path = tmp_path / "card.dat"
    for content in (GOOD, charx(V3)):
        for place in range(0, len(content), 3):
            path.write_bytes(spoiled(content, place))
            with contextlib.suppress(CardError):
                Card.load(path)
