"""All tasks by name; a new one is a file in `tasks/` and a line here."""

from collections.abc import Iterable

from understudy.errors import DataError
from understudy.evaluation.task import Task
from understudy.evaluation.tasks.calls import FunctionCalls
from understudy.evaluation.tasks.divergence import BookDivergence, LineDivergence
from understudy.evaluation.tasks.fairytale import FairytaleQuestions
from understudy.evaluation.tasks.likelihood import BookLikelihood, LineLikelihood
from understudy.evaluation.tasks.lookup import Lookups
from understudy.evaluation.tasks.lore import LoreQuestions
from understudy.evaluation.tasks.npc import CharacterLines
from understudy.evaluation.tasks.schema_guided import SchemaGuidedCalls
from understudy.evaluation.tasks.size import Size
from understudy.evaluation.tasks.speed import Speed
from understudy.evaluation.tasks.zeros import ZeroNeurons

__all__ = ["TASKS", "choose_tasks"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Size(),
        Speed(),
        ZeroNeurons(),
        BookLikelihood(),
        LineLikelihood(),
        BookDivergence(),
        LineDivergence(),
        Lookups(),
        CharacterLines(),
        LoreQuestions(),
        FunctionCalls(),
        SchemaGuidedCalls(),
        FairytaleQuestions(),
    )
}


def choose_tasks(names: Iterable[str] = ()) -> tuple[Task, ...]:
    """Tasks by name, in the order of a report; all of them if no name is given.

    Raises:
        DataError: there is no task of a name.
    """
    wanted = set(names)
    if unknown := sorted(wanted - TASKS.keys()):
        raise DataError(f"There is no evaluation task {unknown[0]!r}; choose from {', '.join(TASKS)}.")
    return tuple(task for name, task in TASKS.items() if not wanted or name in wanted)
