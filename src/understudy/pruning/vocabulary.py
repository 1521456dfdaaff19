"""A smaller vocabulary that encodes given texts as before.

Kept are the tokens that the texts use, all special and added tokens, and what spells every byte. Of BPE's merges those
stay whose two parts and result all stay. A kept token is made by one chain of merges, whatever stands beside it, and
the tokens of that chain stay too. So on a text whose tokens are kept, BPE meets the same best pair at every step: each
pair that it can merge, it could merge before, and the one that it merged before is still there.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
import torch
from torch import Tensor

from understudy.errors import DataError, ModelFileError
from understudy.model.config import NemotronConfig
from understudy.pruning.tensors import LazyTensors
from understudy.tokenizer import Tokenizer
from understudy.tokenizer.byte_level import byte_level_definition

__all__ = ["TrimmedVocabulary", "check_encodings", "prune_vocabulary", "trim_vocabulary"]

_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_TEXTS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrimmedVocabulary:
    """A vocabulary after trimming.

    Attributes:
        kept: (V,) the old id of each new id, ascending but for rows that only fill up, which repeat the pad token.
        tokenizer: encodes into new ids.
        config: the model's shape with the new vocabulary.
        num_seen: tokens that texts and streams use.
        num_closed: tokens that stay because others are merged from them, and special tokens and bytes.
    """

    kept: npt.NDArray[np.int64]
    tokenizer: Tokenizer
    config: NemotronConfig
    num_seen: int
    num_closed: int

    def new_ids(self, old_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Renumber a token stream.

        Raises:
            DataError: a token was not kept.
        """
        table = np.full(int(self.kept.max()) + 1, -1, np.int64)
        size = self.tokenizer.vocab_size
        table[self.kept[:size]] = np.arange(size)
        inside = (old_ids >= 0) & (old_ids < len(table))
        ids = np.where(inside, table[np.where(inside, old_ids, 0)], -1)
        if (ids < 0).any():
            raise DataError(
                f"Token {int(old_ids[ids < 0][0])} was trimmed away; trim with this stream among the texts."
            )
        return ids


def trim_vocabulary(
    tokenizer: Tokenizer,
    config: NemotronConfig,
    *,
    texts: Iterable[str] = (),
    streams: Iterable[npt.NDArray[np.integer[Any]]] = (),
    size: int | None = None,
    multiple_of: int = 1,
) -> TrimmedVocabulary:
    """Choose the tokens that stay, and build the smaller tokenizer.

    Where room is left, up to `size` or to the next multiple, it is filled with further tokens, the earliest merges
    first; where the vocabulary itself is too small for that, rows are filled up that repeat the pad token's.

    Args:
        tokenizer: the model's; BPE of bytes, or of characters with byte fallback.
        config: the model's shape.
        texts: what must encode as before.
        streams: token ids, of any shape, that must be kept.
        size: number of tokens to keep; None for no more than needed.
        multiple_of: what the new vocab_size must be a multiple of.

    Raises:
        ModelFileError: the tokenizer is of a kind that cannot be trimmed.
        DataError: ids beyond the vocabulary, or more tokens needed than `size`.
    """
    bpe = _Bpe(tokenizer.definition)
    seen = _seen_ids(tokenizer, texts, streams, config.vocab_size)
    fixed = bpe.fixed_ids() | set(tokenizer.specials.values())
    fixed |= {i for i in (config.bos_token_id, config.eos_token_id, config.pad_token_id) if i is not None}
    if strangers := (seen | fixed) - bpe.ids:
        raise DataError(
            f"Token {min(strangers)} is in a stream or in the configuration, but the tokenizer has none of that id; "
            "tokenizer, configuration and streams must come from the same model."
        )
    kept = bpe.close(seen | fixed)
    needed = len(kept)
    if size is not None and needed > size:
        raise DataError(f"The texts need {needed} tokens, more than {size}; allow more, or give fewer texts.")
    rows = -(-max(needed, size or 0) // multiple_of) * multiple_of
    bpe.fill(kept, rows)
    old_ids = sorted(kept)
    new_id = {old: new for new, old in enumerate(old_ids)}
    filling = new_id.get(config.pad_token_id if config.pad_token_id is not None else 0, 0)
    padded = np.asarray(old_ids + [old_ids[filling]] * (rows - len(old_ids)), np.int64)
    specials = {text: new_id[i] for text, i in tokenizer.specials.items()}
    return TrimmedVocabulary(
        kept=padded,
        tokenizer=Tokenizer(bpe.trimmed(new_id), specials=specials),
        config=_renumbered(config, new_id, rows),
        num_seen=len(seen),
        num_closed=needed - len(seen & kept),
    )


def prune_vocabulary(tensors: Mapping[str, Tensor], trimmed: TrimmedVocabulary) -> LazyTensors:
    """The model's tensors with the rows of kept tokens only, bit for bit."""
    rows = torch.from_numpy(trimmed.kept)
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    return LazyTensors(
        {
            name: partial(_pick, tensors, name, rows) if name in tables else partial(tensors.__getitem__, name)
            for name in tensors
        }
    )


def check_encodings(
    trimmed: TrimmedVocabulary, before: npt.NDArray[np.integer[Any]], after: npt.NDArray[np.integer[Any]]
) -> None:
    """Compare what texts encoded to with what they encode to now.

    Args:
        trimmed: the new vocabulary.
        before: (total,) ids of the old tokenizer.
        after: (total,) ids of the new tokenizer, of the same texts.

    Raises:
        DataError: a token is another than before.
    """
    size = min(len(before), len(after))
    differing = np.nonzero(trimmed.kept[after[:size]] != before[:size])[0]
    if differing.size or len(before) != len(after):
        at = int(differing[0]) if differing.size else size
        raise DataError(
            f"The texts encode otherwise than before, from token {at:,} of {len(before):,} on: "
            f"{trimmed.tokenizer.decode(after[max(0, at - 8) : at + 8].tolist())!r}; trim with these texts, too."
        )


def _pick(tensors: Mapping[str, Tensor], name: str, rows: Tensor) -> Tensor:
    return tensors[name].index_select(0, rows)


def _renumbered(config: NemotronConfig, new_id: Mapping[int, int], rows: int) -> NemotronConfig:
    pad = config.pad_token_id
    return dataclasses.replace(
        config,
        vocab_size=rows,
        bos_token_id=new_id[config.bos_token_id],
        eos_token_id=new_id[config.eos_token_id],
        pad_token_id=None if pad is None else new_id[pad],
    )


def _seen_ids(
    tokenizer: Tokenizer, texts: Iterable[str], streams: Iterable[npt.NDArray[np.integer[Any]]], vocab_size: int
) -> set[int]:
    """Ids in the streams and in the texts, before and after `Tokenizer` breaks up markers inside a text."""
    seen: set[int] = set()
    plain = tokenizers.Tokenizer.from_str(json.dumps(_without_specials(tokenizer)))
    plain.no_padding()
    plain.no_truncation()
    for group in _groups(texts):
        for ids in tokenizer.encode_batch(group):
            seen.update(ids)
        for encoding in plain.encode_batch_fast(group, add_special_tokens=False):
            seen.update(encoding.ids)
    for stream in streams:
        used = np.unique(stream)
        if used.size and not 0 <= used[0] <= used[-1] < vocab_size:
            raise DataError(
                f"A stream has ids from {used[0]} to {used[-1]}, but the model knows 0 to {vocab_size - 1}."
            )
        seen.update(used.tolist())
    return seen


def _without_specials(tokenizer: Tokenizer) -> dict[str, Any]:
    added = tokenizer.definition.get("added_tokens") or []
    return {**tokenizer.definition, "added_tokens": [t for t in added if t["content"] not in tokenizer.specials]}


def _groups(texts: Iterable[str]) -> Iterable[list[str]]:
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == _TEXTS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


class _Bpe:
    """The BPE model of a `tokenizer.json`: how its tokens are merged, and the same with fewer tokens."""

    def __init__(self, definition: Mapping[str, Any]) -> None:
        self._definition = definition
        model = definition.get("model")
        kind = model.get("type") if isinstance(model, Mapping) else None
        if not isinstance(model, Mapping) or kind != "BPE":
            raise ModelFileError(f"Only BPE vocabularies can be trimmed; this tokenizer is of the kind {kind!r}.")
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(name):
                raise ModelFileError(
                    f"A BPE tokenizer with {name} ({model[name]!r}) cannot be trimmed; expected none of it."
                )
        self._vocab: dict[str, int] = dict(model["vocab"])
        self._added = {str(t["content"]): int(t["id"]) for t in definition.get("added_tokens") or []}
        self._texts = {i: text for text, i in self._vocab.items()}
        self._whole_words = bool(model.get("ignore_merges"))
        self._merges = [_pair(merge) for merge in model["merges"]]
        self._ranks = {pair: rank for rank, pair in enumerate(self._merges)}
        self._byte_level = '"ByteLevel"' in json.dumps([definition.get("pre_tokenizer"), definition.get("normalizer")])
        if not self._byte_level and not model.get("byte_fallback"):
            raise ModelFileError(
                "This BPE tokenizer spells neither bytes (pre_tokenizer ByteLevel) nor falls back to them "
                "(byte_fallback); trimmed, it could not write every text."
            )

    @property
    def ids(self) -> set[int]:
        """All ids that have a token."""
        return {*self._vocab.values(), *self._added.values()}

    def fixed_ids(self) -> set[int]:
        """Added tokens, the unknown token and what spells every text: bytes, and where those are only a model's last
        resort (SentencePiece), plain ASCII and the visible space, too.
        """
        spelling = {self._definition["model"].get("unk_token")}
        if self._byte_level:
            spelling |= set(byte_level_definition(())["model"]["vocab"])
        else:
            spelling |= {
                "\u2581",
                *map(chr, range(128)),
                *(text for text in self._vocab if _BYTE_PIECE.fullmatch(text)),
            }
        return {*self._added.values(), *(self._vocab[text] for text in spelling if text in self._vocab)}

    def close(self, ids: Iterable[int]) -> set[int]:
        """The ids, and all that they are merged from."""
        closed: set[int] = set()
        for token_id in ids:
            closed.add(token_id)
            if token_id in self._texts:
                closed |= self._parts(self._texts[token_id])
        return closed

    def _parts(self, text: str) -> set[int]:
        """Ids of all tokens on the way from a token's characters to the token; none if merges do not lead there."""
        pieces = list(text)
        passed = {piece for piece in pieces if piece in self._vocab}
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._merges)))
            if best not in self._ranks:
                return set()  # a special token, or one that only whole words reach (ignore_merges)
            at = pairs.index(best)
            pieces[at : at + 2] = ["".join(best)]
            passed.add(pieces[at])
        return {self._vocab[piece] for piece in passed}

    def fill(self, kept: set[int], rows: int) -> None:
        """Add tokens to the kept ones up to `rows`: results of the earliest merges first, then what is left by id."""
        merged = (self._vocab[left + right] for left, right in self._merges)
        for token_id in (*merged, *sorted(self.ids - kept)):
            if len(kept) >= rows:
                return
            if token_id not in kept and len(wanted := self.close([token_id]) - kept) <= rows - len(kept):
                kept |= wanted

    def trimmed(self, new_id: Mapping[int, int]) -> dict[str, Any]:
        """The `tokenizer.json` with the tokens of `new_id` (old id to new) only."""
        definition = dict(self._definition)
        model = definition["model"] = dict(definition["model"])
        vocab = {text: new_id[i] for text, i in self._vocab.items() if i in new_id}
        model["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
        model["merges"] = [
            merge
            for merge, (left, right) in zip(model["merges"], self._merges, strict=True)
            if left in vocab and right in vocab and left + right in vocab
        ]
        definition["added_tokens"] = [{**t, "id": new_id[int(t["id"])]} for t in definition.get("added_tokens") or []]
        if definition.get("post_processor"):
            definition["post_processor"] = _renumber_processor(definition["post_processor"], new_id)
        built = tokenizers.Tokenizer.from_str(json.dumps(definition))
        for token in definition["added_tokens"]:
            if built.token_to_id(token["content"]) != token["id"]:
                raise ModelFileError(
                    f"The added token {token['content']!r} cannot have id {token['id']}; expected added tokens that "
                    "stand in the vocabulary or behind it."
                )
        return definition


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _renumber_processor(processor: Any, new_id: Mapping[int, int]) -> Any:
    """A post-processor with its tokens' ids renumbered: TemplateProcessing's `ids`, and (text, id) pairs of Bert's."""
    if isinstance(processor, dict):
        out = {key: _renumber_processor(value, new_id) for key, value in processor.items()}
        if isinstance(ids := processor.get("ids"), list):
            out["ids"] = [new_id[i] for i in ids]
        for key in ("sep", "cls"):
            if isinstance(pair := processor.get(key), list):
                out[key] = [pair[0], new_id[pair[1]]]
        return out
    return [_renumber_processor(item, new_id) for item in processor] if isinstance(processor, list) else processor
