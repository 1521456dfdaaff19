"""Questions on fairy tales, answered from the passage that they are about."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from understudy.data.files import read_json_lines
from understudy.errors import DataError
from understudy.evaluation.answers import answer_all, write_transcript
from understudy.evaluation.intervals import mean_figure, share_figure
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Outcome, Progress
from understudy.evaluation.text_match import exact_match, token_f1
from understudy.prompt import Conversation, Message

__all__ = ["FairytaleQuestions"]

_FILE = "eval/fairytaleqa_val.jsonl"
_MAX_TOKENS = 48
_SYSTEM = "You are a storyteller by the fire. Answer from the tale."


class FairytaleQuestions:
    """FairytaleQA's validation part (Xu et al., 2203.13947)."""

    name = "fairytaleqa"
    method = (
        "Questions of FairytaleQA's validation part; the sections that a question is about stand in the prompt as "
        f"passages. Greedy, at most {_MAX_TOKENS} tokens. Best match with any reference answer, normalised as in "
        "SQuAD."
    )
    version = 1
    needs = ((_FILE,),)
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:  # noqa: ARG002 (as the protocol says)
        """See `Task`."""
        return None

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        questions = list(_questions(subject.require(_FILE)))
        chosen = [questions[index] for index in subject.choose(len(questions))]
        with subject.talking() as model:
            prompts = [_prompt(question) for question in chosen]
            replies = answer_all(model, prompts, max_tokens=_MAX_TOKENS, progress=progress)
        answers = [reply.answer.text for reply in replies]
        exact = [exact_match(a, q["answers"]) for a, q in zip(answers, chosen, strict=True)]
        f1 = [token_f1(a, q["answers"]) for a, q in zip(answers, chosen, strict=True)]
        rows = (
            {**question, "answer": answer, "exact": e, "f1": round(f, 4)}
            for question, answer, e, f in zip(chosen, answers, exact, f1, strict=True)
        )
        return Outcome(
            figures=(
                *share_figure("fairytaleqa.exact", "FairytaleQA: exact match", exact),
                *mean_figure("fairytaleqa.f1", "FairytaleQA: token F1", f1, unit="share", better="higher"),
            ),
            settings={"questions": len(chosen), "max_tokens": _MAX_TOKENS, "temperature": 0.0},
            files=write_transcript(subject, self.name, rows),
        )


def _questions(path: Path) -> Iterator[dict[str, Any]]:
    for record in read_json_lines(path):
        try:
            for asked in record["qas"]:
                passages = [" ".join(record["sections"][str(key)].split()) for key in asked["sections"]]
                answers = [str(answer) for answer in asked["answers"]]
                yield {
                    "tale": record["story"],
                    "question": str(asked["question"]),
                    "answers": answers,
                    "passages": passages,
                }
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: a tale lacks {error}; expected story, sections and qas.") from error


def _prompt(question: dict[str, Any]) -> Conversation:
    messages = (Message(role="system", content=_SYSTEM), Message(role="user", content=question["question"]))
    return Conversation(messages=messages, contexts=tuple(question["passages"]))
