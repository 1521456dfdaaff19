import json
from pathlib import Path

from understudy.tools.functions import load_tools

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_innkeepers_book() -> None:
    tools = {one.name: one for one in load_tools(f"{EXAMPLES / 'innkeeper.py'}:TOOLS")}
    assert all(one.description for one in tools.values())
    assert json.loads(tools["rent_room"].call('{"room": "river", "nights": 2}'))["beds_left"] == 0
    assert json.loads(tools["rent_room"].call('{"room": "river", "nights": 1}'))["reason"] == "That room is taken."
    assert json.loads(tools["rent_room"].call('{"room": "roof", "nights": 1}'))["ok"] is False
    assert json.loads(tools["sell_stew"].call('{"bowls": 3}'))["price_pennies"] == 9
    for _ in range(2):
        tools["write_debt"].call('{"guest": "Bren", "pennies": 6}')
    assert tools["read_debt"].call('{"guest": "Bren"}') == '{"owes_pennies":12}'
    assert tools["read_debt"].call('{"guest": "Ada"}') == '{"owes_pennies":0}'
