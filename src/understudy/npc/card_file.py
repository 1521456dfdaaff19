"""Card files: JSON, PNG and APNG, and .charx archives, as one record and back."""

import base64
import binascii
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from understudy.errors import CardError
from understudy.npc.card_versions import CardVersion, backfill, card_version, convert_card
from understudy.npc.charx import ARCHIVE_SIGNATURES, pack_archive, unpack_archive
from understudy.npc.document import dump_json, open_file, parse_json, read_rest, replacing
from understudy.npc.png import PNG_SIGNATURE, add_texts, split_texts

__all__ = [
    "CardFile",
    "asset_bytes",
    "parse_card_file",
    "read_card_file",
    "write_card_file",
]

_MAX_FILE_BYTES = 64 << 20
_MAX_JSON_BYTES = 4 << 20
_ASSET_KEYWORD = "chara-ext-asset_:"
_KEYWORDS = re.compile(rf"(?i:chara|ccv3)|{re.escape(_ASSET_KEYWORD)}.+", re.DOTALL)
_IN_PNG = "__asset:"
_IN_ARCHIVE = "embeded://"  # so spelled
_PORTRAIT = "assets/icon/images/main.png"
_DEFAULT_ICON = {"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardFile:
    """What a card's file holds.

    Attributes:
        document: the card's JSON.
        picture: a PNG without the card; empty where there is none.
        files: what the card's assets name, by path.
    """

    document: Mapping[str, Any]
    picture: bytes = b""
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


def read_card_file(path: Path) -> CardFile:
    """Read a card of any kind; its content says which it is, not its name.

    Raises:
        CardError: it cannot be read, is damaged, too large, or no card.
    """
    source = f"The card {path}"
    with open_file(path, source) as file:
        start = file.read(8)
        limit = _MAX_FILE_BYTES if _is_packed(start) else _MAX_JSON_BYTES
        content = start + read_rest(file, limit=limit - len(start), source=source)
    return parse_card_file(content, source)


def parse_card_file(content: bytes, source: str) -> CardFile:
    """Read a card that is in memory already.

    Args:
        content: of its file; how large it may be is the caller's business.
        source: what to call it in errors.

    Raises:
        CardError: it is damaged, unpacks to too much, or is no card.
    """
    if content.startswith(PNG_SIGNATURE):
        return _read_png(content, source)
    if _is_packed(content):
        text, files = unpack_archive(content, max_card_bytes=_MAX_JSON_BYTES, source=source)
        document = parse_json(text, f"{source}: card.json")
        return CardFile(document=document, files=files, picture=_portrait(document, files))
    return CardFile(document=parse_json(content, source))


def _is_packed(start: bytes) -> bool:
    return start.startswith((PNG_SIGNATURE, *ARCHIVE_SIGNATURES))


def write_card_file(path: Path, card: CardFile, *, version: CardVersion | None = None) -> None:
    """Write a card, whole or not at all; the name's ending says what it becomes.

    Args:
        path: a file in .json, .png, .apng or .charx. JSON holds neither picture nor files.
        card: what to write.
        version: of its document; default: as it is, for a .charx always V3.

    Raises:
        CardError: the ending is another, there is no picture for a PNG, or the file cannot be written.
    """
    ending = path.suffix.lower()
    if version is None and ending == ".charx" and card_version(card.document) != "v3":
        version = "v3"
    document = convert_card(card.document, version) if version else card.document
    if ending == ".json":
        content = dump_json(document, indent=1) + b"\n"
    elif ending in (".png", ".apng"):
        content = _as_png(document, card, f"The picture for {path}")
    elif ending != ".charx":
        raise CardError(f"A card cannot be written to {path}: name it .json, .png, .apng or .charx.")
    elif card_version(document) != "v3":
        raise CardError(f"A .charx holds a V3 card; {path} cannot be one of {version}. Choose v3, or another ending.")
    else:
        content = _as_archive(document, card, f"The archive {path}")
    _write(path, content)


def asset_bytes(uri: str, card: CardFile) -> bytes:
    """What an asset's address stands for; nothing is ever fetched.

    Raises:
        CardError: it is not in the card.
    """
    for start in (_IN_ARCHIVE, "embedded://", _IN_PNG):
        if uri.startswith(start) and uri.removeprefix(start) in card.files:
            return card.files[uri.removeprefix(start)]
    if uri == "ccdefault:" and card.picture:
        return card.picture
    if uri.startswith("data:") and ";base64," in uri:
        return _unbase64(uri.partition(";base64,")[2].encode("ascii", "replace"), "The asset")
    raise CardError(f"The asset {uri[:80]!r} is not in the card; what lies elsewhere is not fetched.")


def _read_png(content: bytes, source: str) -> CardFile:
    picture, texts = split_texts(content, keywords=_KEYWORDS, max_text_bytes=_MAX_JSON_BYTES * 2, source=source)
    found = {name.lower(): text for name, text in texts.items() if not name.startswith(_ASSET_KEYWORD)}
    keyword = "ccv3" if "ccv3" in found else "chara"
    if keyword not in found:
        raise CardError(f"{source} is a picture without a card in it (no text 'ccv3' or 'chara'). Give another file.")
    document = parse_json(_unbase64(found[keyword], f"{source}: {keyword!r}"), f"{source}: {keyword!r}")
    files = {
        name.removeprefix(_ASSET_KEYWORD): _unbase64(text, f"{source}: {name!r}")
        for name, text in texts.items()
        if name.startswith(_ASSET_KEYWORD)
    }
    return CardFile(document=document, picture=picture, files=files)


def _unbase64(text: bytes, source: str) -> bytes:
    packed = b"".join(text.split()).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise CardError(f"{source} is no valid base64: {error}. Export the card again.") from error


def _as_png(document: Mapping[str, Any], card: CardFile, source: str) -> bytes:
    """V3 is written for old programs too, as a V2 copy."""
    if not card.picture:
        raise CardError(f"{source} is missing: the card has none. Give a PNG picture.")
    document, files = _moved(document, card.files, _IN_ARCHIVE, _IN_PNG, card.picture)
    texts = {"chara": backfill(document), "ccv3": document} if card_version(document) == "v3" else {"chara": document}
    packed = {keyword: base64.b64encode(dump_json(text)) for keyword, text in texts.items()}
    packed |= {_ASSET_KEYWORD + name: base64.b64encode(data) for name, data in files.items()}
    return add_texts(card.picture, packed, source=source)


def _as_archive(document: Mapping[str, Any], card: CardFile, source: str) -> bytes:
    document, files = _moved(document, card.files, _IN_PNG, _IN_ARCHIVE, b"")
    icon = _main_icon(document)
    if card.picture and icon.get("uri") == "ccdefault:":
        path = next(name for name in _free_names() if name not in files)
        files = {**files, path: card.picture}
        main = {**icon, "uri": _IN_ARCHIVE + path}
        data = document["data"]
        others = [asset for asset in data.get("assets") or [] if asset is not icon]
        document = {**document, "data": {**data, "assets": [main, *others]}}
    return pack_archive(dump_json(document, indent=1), files, source=source)


def _free_names() -> Iterator[str]:
    yield _PORTRAIT
    number = 1
    while True:
        number += 1
        yield _PORTRAIT.replace("main", f"main-{number}")


def _moved(
    document: Mapping[str, Any], files: Mapping[str, bytes], old: str, new: str, picture: bytes
) -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
    """Name embedded files as another container does; a file that is the picture itself becomes the default icon."""
    data = document.get("data")
    assets = data.get("assets") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(assets, list):
        return document, files
    kept = dict(files)
    uris = [asset.get("uri") for asset in assets if isinstance(asset, dict)]
    moved = []
    for asset in assets:
        uri = asset.get("uri") if isinstance(asset, dict) else None
        if isinstance(uri, str) and uri.startswith(old):
            path = uri.removeprefix(old)
            is_main = asset is _main_icon(document) and uris.count(uri) == 1
            is_picture = bool(picture) and is_main and kept.get(path) == picture
            if is_picture:
                del kept[path]
            moved.append({**asset, "uri": "ccdefault:" if is_picture else new + path})
        else:
            moved.append(asset)
    return {**document, "data": {**data, "assets": moved}}, kept


def _main_icon(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The asset that is the character's portrait."""
    data = document.get("data")
    assets = data.get("assets") if isinstance(data, dict) else None
    if not isinstance(assets, list):
        return _DEFAULT_ICON
    icons = [asset for asset in assets if isinstance(asset, dict) and asset.get("type") == "icon"]
    return next((icon for icon in icons if icon.get("name") == "main"), icons[0] if icons else {})


def _portrait(document: Any, files: Mapping[str, bytes]) -> bytes:
    """An archive's main icon, if it is a PNG inside."""
    uri = _main_icon(document).get("uri") if isinstance(document, dict) else None
    data = files.get(uri.removeprefix(_IN_ARCHIVE), b"") if isinstance(uri, str) else b""
    return data if data.startswith(PNG_SIGNATURE) else b""


def _write(path: Path, content: bytes) -> None:
    try:
        with replacing(path) as file:
            file.write(content)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CardError(
            f"The card cannot be written to {path}: {why}. Choose a file in a folder that exists."
        ) from error
