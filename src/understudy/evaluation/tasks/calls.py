"""Function calls of the evaluation world's characters."""

from understudy.evaluation.answers import write_transcript
from understudy.evaluation.calling import call_figures, call_row, play_calls
from understudy.evaluation.lines import WORLD_FILES, read_lines
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Outcome, Progress

__all__ = ["FunctionCalls"]

_MAX_TOKENS = 160


class FunctionCalls:
    """Turns of the evaluation world in which a character has functions."""

    name = "calls"
    method = (
        "Every turn of the evaluation world in which a character has functions, generated greedily after the "
        "dialogue's true beginning, their schemas in the prompt: freely; held by the grammar, which wakes when the "
        "model opens a call; and, where a call is due, told to call. Right functions: the same in any order; exact: "
        "the same arguments too, equal as JSON; arguments: each one that is due. A question back is due where the "
        "character asks and calls in its next turn; asking is a question mark and no call, for the right thing if "
        "the world's checks of the line hold too."
    )
    version = 2
    needs = WORLD_FILES
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:  # noqa: ARG002 (as the protocol says)
        """See `Task`."""
        return None

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        lines = [line for line in read_lines(subject) if line.conversation.tools]
        with subject.talking() as model:
            played = play_calls(model, lines, max_tokens=_MAX_TOKENS, progress=progress)
        return Outcome(
            figures=tuple(call_figures(self.name, "calls", played)),
            settings={"lines": len(lines), "max_tokens": _MAX_TOKENS, "temperature": 0.0},
            files=write_transcript(subject, self.name, map(call_row, played)),
        )
