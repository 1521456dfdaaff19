"""Function calls in dialogues of another kind: Schema-Guided Dialogue, as a stress."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from understudy.data.files import read_bytes, read_json_lines
from understudy.errors import DataError
from understudy.evaluation.answers import write_transcript
from understudy.evaluation.calling import call_figures, call_row, play_calls
from understudy.evaluation.lines import Line, split_turns
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Outcome, Progress

__all__ = ["SchemaGuidedCalls"]

_DIALOGUES, _TOOLS = "fc/sgd_dev.jsonl", "fc/sgd_tools.json"
_MAX_TOKENS = 128
_MOST = 25


class SchemaGuidedCalls:
    """The development part of Schema-Guided Dialogue (Rastogi et al., 1909.05855); nothing of it is trained on."""

    name = "sgd"
    method = (
        f"Turns of {_MOST} dialogues of Schema-Guided Dialogue's development part, drawn by the seed, played and "
        "judged like the task calls. Offered are all functions of the dialogue's services; all values are texts, "
        "dates have to be worked out, and a question back is often one for a yes. An assistant of everyday errands is "
        "not what a model of characters is made for: a stress."
    )
    version = 1
    needs = ((_DIALOGUES,), (_TOOLS,))
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:  # noqa: ARG002 (as the protocol says)
        """See `Task`."""
        return None

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        records = list(_records(subject.require(_DIALOGUES), subject.require(_TOOLS)))
        chosen = [records[index] for index in subject.choose(len(records), _MOST)]
        lines = [line for record in chosen for line in _lines(record)]
        with subject.talking() as model:
            played = play_calls(model, lines, max_tokens=_MAX_TOKENS, progress=progress)
        return Outcome(
            figures=tuple(call_figures(self.name, "SGD", played)),
            settings={"dialogues": len(chosen), "lines": len(lines), "max_tokens": _MAX_TOKENS, "temperature": 0.0},
            files=write_transcript(subject, self.name, map(call_row, played)),
        )


def _records(dialogues: Path, tools: Path) -> Iterator[dict[str, Any]]:
    """Dialogues in the form of `worlds/README.md`."""
    try:
        services = json.loads(read_bytes(tools))["dev"]
        for record in read_json_lines(dialogues):
            used = [services[service] for service in record["services"]]
            about = " ".join(f"{service['service_description'].rstrip('.')}." for service in used)
            yield {
                "id": record["id"],
                "kind": "sgd",
                "system": f"You are an assistant. {about}",
                "context": [],
                "tools": [_schema(tool) for service in used for tool in service["tools"]],
                "turns": [_turn(message) for message in record["messages"]],
            }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{dialogues} or {tools} has another form than expected: {error!r}; fetch them again."
        ) from error


def _schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {key: tool[key] for key in ("name", "description", "parameters")}}


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "tool", "content": json.dumps(message["content"][:1], ensure_ascii=False)}
    calls = [{"name": call["name"], "arguments": call["arguments"]} for call in message.get("calls", ())]
    return {"role": message["role"], "content": message.get("content", ""), "tool_calls": calls}


def _lines(record: dict[str, Any]) -> list[Line]:
    return split_turns(record, [None] * len(record["turns"]))
