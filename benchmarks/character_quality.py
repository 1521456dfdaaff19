"""Let a model answer the sixty player lines of character_lines.json, and write the transcripts.

Run: python benchmarks/character_quality.py [MODEL.gguf] [--markdown]

The lines were written before the model was trained. Each is asked in a fresh conversation with the default sampling
of `understudy chat` (seed 1). Judging is done apart from this script, by readers who
are not told what made the answers.
"""

import dataclasses
import json
import sys
from pathlib import Path

from understudy.npc.card import find_card
from understudy.npc.model import Model
from understudy.npc.session import Session
from understudy.npc.world import default_world
from understudy.prompt import AnswerParser, Conversation, Message

LINES = Path(__file__).with_name("character_lines.json")


def conversation(item: dict[str, object]) -> Conversation:
    """The system prompt as `understudy chat` makes it, or the item's own; the item's passages; the line."""
    system = item.get("system")
    if system is None:
        world = default_world()
        session = Session(find_card(str(item["character"]), world), world=world)
        talk = session.conversation("Hello.", max_prompt_tokens=100_000, count=lambda _: 0)
        system = talk.messages[0].content
    messages = (Message(role="system", content=str(system)), Message(role="user", content=str(item["line"])))
    return Conversation(messages=messages, contexts=tuple(item["context"]))  # type: ignore[arg-type]


def main() -> None:
    """Print JSON lines, or a Markdown table."""
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    with Model.load(Path(arguments[0]) if arguments else None) as model:
        sampling = dataclasses.replace(model.default_sampling, seed=1)
        for item in json.loads(LINES.read_text(encoding="utf-8")):
            talk = conversation(item)
            parser = AnswerParser()
            generation = model.generate(talk, sampling=sampling, max_tokens=80)
            answer = "".join([parser.push(chunk.text) for chunk in generation] + [parser.finish()]).strip()
            if "--markdown" in sys.argv:
                cells = (item["id"], item["character"], item["line"], answer, item["truth"])
                print("| " + " | ".join(str(c).replace("|", "/").replace("\n", " ") for c in cells) + " |")
            else:
                system = talk.messages[0].content
                print(json.dumps({**item, "system": system, "answer": answer}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
