"""The corpora that recipes name, and how each becomes texts or dialogues.

A dialogue is a dictionary as in `worlds/README.md`: system, context, tools, turns. Only sources whose licence lets
a model be shipped with attribution stand here; `NOTICE` names them all.
"""

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from understudy.data.files import read_bytes, read_json_lines, read_tar_texts
from understudy.data.made_calls import made_calls
from understudy.data.recast import Recaster, lower_case_words
from understudy.data.tool_corpora import read_coffee_orders, read_snips, read_star
from understudy.data.tool_shuffle import ToolShuffler, recast_calls
from understudy.errors import DataError
from understudy.prompt.persona import Persona, persona_prompt

__all__ = ["DIALOGUE_SOURCES", "EVALUATION_SOURCES", "TEXT_SOURCES", "Dialogue", "read_dialogues", "read_texts"]

Dialogue = dict[str, Any]

_MAX_ARCHAIC_PER_10K = 10
_MAX_SENTENCE_WORDS = 17


def read_texts(name: str, folder: Path) -> Iterator[str]:
    """Documents of a text source, in a fixed order.

    Raises:
        DataError: unknown name, or its files are missing.
    """
    if name not in TEXT_SOURCES:
        raise DataError(f"There is no text source {name!r}; choose from {', '.join(sorted(TEXT_SOURCES))}.")
    return TEXT_SOURCES[name](folder)


def read_dialogues(name: str, folder: Path) -> Iterator[Dialogue]:
    """Dialogues of a source, in a fixed order.

    Raises:
        DataError: unknown name, or its files are missing.
    """
    if name not in DIALOGUE_SOURCES:
        raise DataError(f"There is no dialogue source {name!r}; choose from {', '.join(sorted(DIALOGUE_SOURCES))}.")
    return DIALOGUE_SOURCES[name](folder)


def _books(folder: Path, part: str) -> Iterator[str]:
    """Books that read most like speech, by the index's archaic-word rate and sentence length."""
    index = json.loads(read_bytes(folder / "pretrain" / f"{part}_index.json"))
    modern = {
        Path(book["file"]).name
        for book in index
        if book["archaic_per_10k"] < _MAX_ARCHAIC_PER_10K and book["mean_sent_words"] < _MAX_SENTENCE_WORDS
    }
    for name, text in read_tar_texts(folder / "pretrain" / f"{part}.tar.zst"):
        if name in modern:
            yield text


def _storybooks(folder: Path) -> Iterator[str]:
    for record in read_json_lines(folder / "pretrain" / "storybooks_ccby.jsonl"):
        yield f"{record['title']}\n\n{record['text']}"


def _fairytales(folder: Path) -> Iterator[str]:
    for record in read_json_lines(folder / "rag" / "fairytaleqa_train.jsonl"):
        yield "\n\n".join(record["sections"].values())


def _books_dev(folder: Path) -> Iterator[str]:
    for _, text in read_tar_texts(folder / "eval" / "books_dev.tar.zst"):
        yield text


def _worlds_folder(folder: Path) -> Path:
    return folder / "npc_worlds" if (folder / "npc_worlds").is_dir() else folder / "worlds"


def _world(folder: Path, name: str) -> Iterator[Dialogue]:
    root = _worlds_folder(folder)
    tools: dict[str, Any] = {}
    if (root / name / "tools.json").exists():
        tools = {t["function"]["name"]: t for t in json.loads(read_bytes(root / name / "tools.json"))}
    for record in read_json_lines(root / name / "dialogues.jsonl"):
        named = [tools[t] if isinstance(t, str) else t for t in record.get("tools", [])]
        yield {**record, "tools": named, "context": record.get("context", [])}


_WORLDS = (
    "ashford_hold",
    "harrowmere",
    "kestrel_station",
    "lantern_reach",
    "mosswick",
    "saltglass",
    "thornhallow",
    "vantage_nine",
)
_PLAIN_ROUNDS = 25
_RECAST_ROUNDS = 60
_CALL_ROUNDS = 12
_MADE_CALLS = 6000
_EVERYDAY = ("everyday", "everyday_quests", "everyday_voices", "everyday_tools", "everyday_rag", "everyday_guard")


def _worlds(folder: Path) -> Iterator[Dialogue]:
    for name in _WORLDS:
        yield from _world(folder, name)


def _worlds_as_played(folder: Path) -> Iterator[Dialogue]:
    """The worlds once more as `understudy chat` shows them: the card's own system prompt, and among the passages up
    to two that the character knows but that nobody asked for.
    """
    rng = random.Random(212)
    for name in _WORLDS:
        root = _worlds_folder(folder) / name
        world = json.loads(read_bytes(root / "world.json"))
        lore = {entry["id"]: entry["text"] for entry in world["lore"]}
        cards = {card["id"]: card for card in json.loads(read_bytes(root / "characters.json"))}
        for record in _world(folder, name):
            if (card := cards.get(record.get("character", ""))) is None:
                continue
            unasked = [lore[i] for i in card["knowledge"] if lore[i] not in record["context"]]
            context = [*record["context"], *rng.sample(unasked, min(len(unasked), rng.choice((0, 0, 1, 2))))]
            rng.shuffle(context)
            yield {**record, "system": _card_prompt(card, world["name"]), "context": context}


def _worlds_plain(folder: Path) -> Iterator[Dialogue]:
    """Plain questions about the worlds' cards and passages (`plain/`), each fact in many wordings.

    Prompts are as `understudy chat` shows them. Some questions are about a passage that is not there.
    """
    return _plain_rounds(folder, random.Random(57), _PLAIN_ROUNDS)


def _worlds_recast(folder: Path) -> Iterator[Dialogue]:
    """The plain questions with other names, numbers and things in every dialogue."""
    rng = random.Random(58)
    return _recast(_plain_rounds(folder, rng, _RECAST_ROUNDS), _worlds_prose(folder), rng)


def _worlds_prose(folder: Path, names: Iterable[str] = _WORLDS) -> Iterator[str]:
    """Lore and cards as plain texts, one a world."""
    for name in names:
        yield "\n\n".join(_prose_of(_worlds_folder(folder) / name))


def _recast(records: Iterable[Dialogue], texts: Iterable[str], rng: random.Random) -> Iterator[Dialogue]:
    recaster = Recaster(rng, lower_case_words(texts))
    for record in records:
        other = recaster.recast()
        turns = [{**turn, "content": other(turn["content"])} for turn in record["turns"]]
        context = [other(passage) for passage in record["context"]]
        yield {**record, "system": other(record["system"]), "context": context, "turns": turns}


def _prose_of(root: Path) -> Iterator[str]:
    for entry in json.loads(read_bytes(root / "world.json"))["lore"]:
        yield entry["text"]
    for card in json.loads(read_bytes(root / "characters.json")):
        yield from (card[field] for field in ("description", "personality", "speech_style", "scenario"))


def _plain_rounds(folder: Path, rng: random.Random, rounds: int) -> Iterator[Dialogue]:
    here = Path(__file__).parent
    unknown = json.loads(read_bytes(here / "lookup" / "unknown.json"))["answers"]
    refusals = [text for text in unknown if "{" not in text]
    for name in _WORLDS:
        root = _worlds_folder(folder) / name
        world = json.loads(read_bytes(root / "world.json"))
        if not (here / "plain" / f"{name}.json").exists():
            continue  # of harrowmere, so that its characters show how well the model reads
        plain = json.loads(read_bytes(here / "plain" / f"{name}.json"))
        lore = {entry["id"]: entry["text"] for entry in world["lore"]}
        cards = json.loads(read_bytes(root / "characters.json"))
        for _ in range(rounds):
            for card in cards:
                shown = rng.sample(sorted(lore), rng.choice((0, 0, 1, 2)))
                yield _plain_talk(rng, card, world, [lore[i] for i in shown], plain["cards"][card["id"]])
            for asked in lore:
                shown = [asked, *rng.sample(sorted(set(lore) - {asked}), rng.choice((0, 1, 1, 2)))]
                rng.shuffle(shown)
                facts = plain["lore"][asked]
                if rng.random() < 0.25:
                    absent = rng.choice(sorted(set(lore) - set(shown)))
                    facts = [*facts, {"q": rng.choice(plain["lore"][absent])["q"], "a": refusals}]
                yield _plain_talk(rng, rng.choice(cards), world, [lore[i] for i in shown], facts)


def _plain_talk(
    rng: random.Random,
    card: dict[str, Any],
    world: dict[str, Any],
    context: list[str],
    facts: list[dict[str, list[str]]],
) -> Dialogue:
    turns = []
    for fact in rng.sample(facts, min(len(facts), rng.randint(2, 5))):
        turns.append({"role": "user", "content": rng.choice(fact["q"])})
        turns.append({"role": "assistant", "content": rng.choice(fact["a"])})
    return {"system": _card_prompt(card, world["name"]), "context": context, "tools": [], "turns": turns}


def _card_prompt(card: dict[str, Any], place: str) -> str:
    fields = ("name", "role", "description", "personality", "speech_style", "scenario")
    return persona_prompt(Persona(**{field: card[field] for field in fields}, place=place))


def _everyday(folder: Path) -> Iterator[Dialogue]:
    for name in _EVERYDAY:
        yield from _world(folder, name)


def _worlds_calls(folder: Path) -> Iterator[Dialogue]:
    """Hand-written dialogues with functions, many times over: other names of functions, people and things."""
    rng = random.Random(61)
    records = [record for record in _hand_written(folder) if record["tools"]]
    shuffler = ToolShuffler(rng, [tool for record in records for tool in record["tools"]])
    texts = (json.dumps([record["tools"], record["turns"], record["system"]]).replace("_", " ") for record in records)
    recaster = Recaster(rng, lower_case_words([*_worlds_prose(folder), *texts]), only_names=True)
    for _ in range(_CALL_ROUNDS):
        for record in records:
            yield shuffler.shuffled(recast_calls(record, recaster) if rng.random() < 0.7 else record)


def _worlds_idle(folder: Path) -> Iterator[Dialogue]:
    """Hand-written talk beside functions that nobody needs: the right call is none."""
    rng = random.Random(62)
    records = list(_hand_written(folder))
    shuffler = ToolShuffler(rng, [tool for record in records for tool in record["tools"]])
    for record in records:
        if not record["tools"]:
            yield shuffler.shuffled({**record, "tools": shuffler.strangers(record, rng.randint(1, 3))})


def _made_calls(_folder: Path) -> Iterator[Dialogue]:
    """Generated dialogues with functions: invented names of functions, values that only the player's line tells."""
    return made_calls(seed=63, count=_MADE_CALLS)


def _hand_written(folder: Path) -> Iterator[Dialogue]:
    yield from _worlds(folder)
    yield from _everyday(folder)


def _persona_chat(folder: Path) -> Iterator[Dialogue]:
    """Synthetic-Persona-Chat: the second speaker is the character, its persona the system prompt."""
    for number, record in enumerate(read_json_lines(folder / "npc" / "synthetic_persona_chat.jsonl")):
        turns: list[dict[str, str]] = []
        for turn in record["conversation"]:
            role = "user" if turn["speaker"] == "user1" else "assistant"
            if "(" in turn["text"] or "[" in turn["text"] or (turns and turns[-1]["role"] == role):
                break
            turns.append({"role": role, "content": turn["text"].strip()})
        while turns and turns[-1]["role"] == "user":
            turns.pop()
        if len(turns) >= 2 and turns[0]["role"] == "user":
            facts = [f.strip() for f in record["persona2"]]
            system = "About you:\n" + "\n".join(facts) if number % 2 else " ".join(_second_person(f) for f in facts)
            yield {"system": system, "context": [], "tools": [], "turns": turns}


def _second_person(fact: str) -> str:
    for pattern, replacement in (
        (r"\b[Ii] am\b|\b[Ii]'m\b|\bi m\b", "You are"),
        (r"\b[Ii] was\b", "You were"),
        (r"\b[Ii]\b", "You"),
        (r"\b[Mm]y\b", "Your"),
        (r"\b[Mm]e\b", "you"),
    ):
        fact = re.sub(pattern, replacement, fact)
    return re.sub(r"(?<!^)(?<![.!?] )\bYou(r?)\b", r"you\1", fact)


def _fairytale_questions(folder: Path) -> Iterator[Dialogue]:
    """FairytaleQA: a storyteller answers from the section that a question is about, with a distractor beside it."""
    rng = random.Random(171)
    openings = (
        "You are a storyteller by the fire. Answer from the tale.",
        "You are an old nurse who knows this tale by heart. Keep answers short.",
        "You tell tales to children at the inn. If the tale does not say, say so.",
        "You are a travelling player. Answer questions about the tale in few words.",
    )
    for record in read_json_lines(folder / "rag" / "fairytaleqa_train.jsonl"):
        sections = record["sections"]
        by_section: dict[str, list[Dialogue]] = {}
        for question in record["qas"]:
            asked = [str(s) for s in question.get("sections", [])]
            answer = _spoken(question["answers"][0])
            if len(asked) == 1 and asked[0] in sections and answer:
                turns = [
                    {"role": "user", "content": str(question["question"])},
                    {"role": "assistant", "content": answer},
                ]
                by_section.setdefault(asked[0], []).extend(turns)
        for key, turns in by_section.items():
            context = [" ".join(sections[key].split())]
            if len(context[0].split()) < 220:
                yield {"system": rng.choice(openings), "context": context, "tools": [], "turns": turns}


def _fairytale_recast(folder: Path) -> Iterator[Dialogue]:
    """FairytaleQA twice over with other names, numbers and things."""
    records = [record for _ in range(2) for record in _fairytale_questions(folder)]
    return _recast(records, _fairytales(folder), random.Random(172))


def _spoken(answer: str) -> str:
    answer = " ".join(answer.split()).rstrip(" .")
    return answer[:1].upper() + answer[1:] + "." if answer else ""


EVALUATION_SOURCES = frozenset({"books_dev", "cloudmere_prose"})
"""Only measured with, never trained on."""

TEXT_SOURCES: dict[str, Callable[[Path], Iterator[str]]] = {
    "books": lambda folder: _books(folder, "books"),
    "books2": lambda folder: _books(folder, "books2"),
    "books_dev": _books_dev,
    "cloudmere_prose": lambda folder: _worlds_prose(folder, ["cloudmere"]),
    "fairytales": _fairytales,
    "storybooks": _storybooks,
    "worlds_prose": _worlds_prose,
}
DIALOGUE_SOURCES: dict[str, Callable[[Path], Iterator[Dialogue]]] = {
    "everyday": _everyday,
    "fairytale_questions": _fairytale_questions,
    "fairytale_recast": _fairytale_recast,
    "made_calls": _made_calls,
    "persona_chat": _persona_chat,
    "snips": read_snips,
    "star": read_star,
    "taskmaster_coffee": read_coffee_orders,
    "worlds": _worlds,
    "worlds_as_played": _worlds_as_played,
    "worlds_calls": _worlds_calls,
    "worlds_idle": _worlds_idle,
    "worlds_plain": _worlds_plain,
    "worlds_recast": _worlds_recast,
}
