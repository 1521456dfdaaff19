import pytest

from understudy.errors import DataError
from understudy.evaluation.registry import TASKS, choose_tasks


def test_tasks_come_in_the_order_of_reports() -> None:
    assert [task.name for task in choose_tasks(["npc", "size"])] == ["size", "npc"]
    assert list(choose_tasks()) == list(TASKS.values())


def test_a_wrong_name_is_told_the_right_ones() -> None:
    with pytest.raises(DataError, match="no evaluation task 'blimp'; choose from size"):
        choose_tasks(["blimp", "npc"])


def test_every_task_says_how_it_measures() -> None:
    assert all(task.method.endswith(".") and task.version >= 1 for task in TASKS.values())
    assert all(isinstance(places, tuple) and places for task in TASKS.values() for places in task.needs)
