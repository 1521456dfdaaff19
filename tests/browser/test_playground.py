"""A person's way through the playground."""

import base64
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from understudy.npc.card import Card

if TYPE_CHECKING:
    from conftest import Theatre

pytestmark = pytest.mark.browser

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
BED = "I'd like the single room for two nights, please."


def begin(page: Any, line: str) -> None:
    page.fill("#line", line)
    page.press("#line", "Enter")


def ask(page: Any, line: str) -> str:
    """Say a line and wait for the end; the answer's words."""
    told = page.locator(".figures").count()
    begin(page, line)
    page.locator(".figures").nth(told).wait_for()
    page.locator("#say").wait_for()
    return answer(page)


def answer(page: Any) -> str:
    return "\n".join(page.locator(".said.character").last.locator(".words").all_text_contents())


def choose(page: Any, name: str) -> None:
    page.locator(".person", has_text=name).click()
    page.locator("#name", has_text=name).wait_for()


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def turn(page: Any, dial: str, value: float) -> None:
    page.locator(f"#{dial}").fill(str(value))
    assert float(page.locator(f"#{dial}-now").text_content()) == value


def copied(page: Any, language: str) -> str:
    """The program on the page, by its button."""
    tab(page, "Code")
    tab(page, language)
    page.locator("#copy", has_text=re.compile("^Copy$")).click()
    page.locator("#copy", has_text="Copied").wait_for()
    return page.evaluate("navigator.clipboard.readText()")


def test_choose_ask_and_read_why(page: Any) -> None:
    choose(page, "Gunna Tarr")
    choose(page, "Minnow")
    assert page.locator("#role").text_content() == "child pickpocket"
    assert page.locator(".said.character .words").first.text_content().startswith("I was never in your pocket")
    assert ask(page, "How many pennies make a heron?").strip()
    figures = page.locator(".figures").last.text_content()
    assert re.match(r"first token [\d,]+ ms · ([\d,]+ tokens/s · )?\d+ tokens · seed 7", figures)
    page.locator(".sum").wait_for()
    total = int(page.locator(".sum b").text_content().replace(",", ""))
    parts = [int(text.replace(",", "")) for text in page.locator(".parts .figure").all_text_contents()]
    assert sum(parts) == total
    kept = page.locator(".passage.kept", has_text="Coins of the river")
    assert {"heron", "penny"} & {text.lower() for text in kept.locator("mark").all_text_contents()}
    kept.locator("summary").click()
    assert "Ten pennies make a heron" in kept.locator(".lore-text").text_content()
    assert "Minnow does not know it" in page.locator(".passage.dropped").first.text_content()


def test_a_persons_way(page: Any, theatre: "Theatre") -> None:
    """All in one sitting: nothing of a step is left to trouble the next."""
    choose(page, "Minnow")
    assert ask(page, "Good evening. Who are you?").strip()
    theatre.pace_s = 0.2
    begin(page, "Tell me all that you know of the river, the market and the town.")
    page.locator(".speaking .words").wait_for()
    page.click("#stop")
    page.locator(".figures", has_text="stopped").wait_for()
    theatre.pace_s = 0.0
    tab(page, "Settings")
    turn(page, "temperature", 0.3)
    assert ask(page, "How many pennies make a heron?").strip()
    drop(page, "vex.json", json.dumps({"name": "Vex", "first_mes": "Mind the cables."}).encode())
    page.locator("#name", has_text="Vex").wait_for()
    assert page.locator(".said").count() == 1
    assert page.locator("#functions").is_hidden()
    assert ask(page, "Hello!").strip()
    call(page)
    page.keyboard.type('{"ok": true, "price": "6 pence"}')
    page.keyboard.press("Enter")
    page.locator("#say").wait_for()
    assert "6 pence" in page.locator(".given").last.text_content()
    tab(page, "Why")
    page.locator(".parts", has_text="Calls and results").wait_for()
    assert "rent_room" in page.locator(".parts").text_content()
    kept = page.locator(".passage.kept", has_text="The Dry Boot")
    assert kept.locator("mark").count()
    assert float(page.locator("#temperature-now").text_content()) == 0.3


def test_the_same_seed_says_the_same_again(page: Any) -> None:
    tab(page, "Settings")
    turn(page, "temperature", 1.5)
    turn(page, "max_tokens", 32)
    first = ask(page, "Tell me of the market.")
    page.click("#anew")
    page.locator(".figures").first.wait_for(state="detached")
    assert ask(page, "Tell me of the market.") == first
    turn(page, "seed", 8)
    page.click("#anew")
    page.locator(".figures").first.wait_for(state="detached")
    assert ask(page, "Tell me of the market.") != first


def test_stop_and_go_on(page: Any, theatre: "Theatre") -> None:
    theatre.pace_s = 0.2
    begin(page, "Tell me all that you know of the river, the market and the town.")
    page.locator(".speaking .words").wait_for()
    page.click("#stop")
    page.locator(".figures", has_text="stopped").wait_for()
    said = answer(page)
    theatre.pace_s = 0.0
    assert ask(page, "And then?").strip()
    tab(page, "Code")
    request = json.loads(re.search(r"<<'JSON'\n(.*)\nJSON", copied(page, "curl"), re.DOTALL)[1])  # type: ignore[index]
    assert request["messages"][2]["role"] == "assistant"
    assert request["messages"][2]["content"].startswith(said.strip())


def call(page: Any) -> Any:
    """Let Hettie call a function; the card with the call."""
    choose(page, "Hettie Marlpit")
    tab(page, "Settings")
    with page.expect_response(lambda response: response.url.endswith("/why")):
        page.get_by_label("rent_room").check()
    for line in (BED, "One bed tonight, the single room!", "Rent me the river room for one night."):
        begin(page, line)
        page.locator(".speaking .call, .figures").last.wait_for()
        if page.locator(".speaking .call").count():
            return page.locator(".speaking .call").last
    raise AssertionError("The character called no function in three lines.")


def test_a_call_and_its_result(page: Any) -> None:
    shown = call(page)
    assert shown.locator(".direction b").text_content() == "rent_room"
    assert "nights" in shown.locator(".direction code").text_content()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Result of rent_room"
    page.keyboard.type('{"ok": true, "room": "single"}')
    page.keyboard.press("Enter")
    page.locator("#say").wait_for()
    assert page.locator(".given").last.text_content() == 'gave {"ok": true, "room": "single"}'
    tab(page, "Why")
    page.locator(".parts", has_text="Functions").wait_for()
    assert "rent_room" in page.locator(".parts").text_content()
    assert "Calls and results" in page.locator(".parts").text_content()


def test_stop_at_a_call(page: Any) -> None:
    call(page)
    page.keyboard.press("Escape")
    page.locator(".figures", has_text="stopped").wait_for()
    assert page.locator(".give").count() == 0
    page.get_by_label("rent_room").uncheck()
    page.locator(".figures").first.wait_for(state="detached")
    assert ask(page, "Never mind. Good evening!").strip()


def drop(page: Any, name: str, content: bytes) -> None:
    """Drop a file on the page, as a mouse would."""
    encoded = base64.b64encode(content).decode()
    transfer = page.evaluate_handle(
        """([name, encoded]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(encoded), (one) => one.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [name, encoded],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#talk", event, {"dataTransfer": transfer})


def test_cards_drop_in(page: Any, tmp_path: Path) -> None:
    vex = {"name": "Vex", "description": "A mechanic on a moon.", "first_mes": "Mind the cables, {{user}}."}
    drop(page, "vex.json", json.dumps({"spec": "chara_card_v2", "spec_version": "2.0", "data": vex}).encode())
    page.locator("#name", has_text="Vex").wait_for()
    assert page.locator(".said.character .words").text_content() == "Mind the cables, traveller."
    assert ask(page, "Hello!").strip()
    picture = dataclasses.replace(Card(name="Ossian", first_mes="Well?"), picture=PIXEL)
    picture.save(tmp_path / "ossian.png")
    drop(page, "ossian.png", (tmp_path / "ossian.png").read_bytes())
    page.locator("#name", has_text="Ossian").wait_for()
    page.locator("#portrait img").wait_for()
    assert ask(page, "Who are you?").strip()
    assert page.locator(".person").count() == 14
    drop(page, "letter.txt", b"not a card")
    page.locator("#trouble", has_text="neither a picture with a card nor JSON").wait_for()


def test_a_card_is_edited(page: Any) -> None:
    page.click("#edit")
    page.fill("#field-name", "Minna")
    page.fill("#field-first_mes", "New face, new prices.")
    page.click("text=Bring on stage")
    page.locator("#name", has_text="Minna").wait_for()
    assert page.locator(".said.character .words").text_content() == "New face, new prices."
    ask(page, "How many pennies make a heron?")
    tab(page, "Why")
    page.locator(".passage.kept", has_text="Coins of the river").wait_for()


def test_a_conversation_is_kept(page: Any, tmp_path: Path) -> None:
    said = ask(page, "Who are you?")
    with page.expect_download() as download:
        page.click("#save")
    kept = tmp_path / download.value.suggested_filename
    download.value.save_as(kept)
    assert kept.name == "minnow.npc.json"
    choose(page, "Gunna Tarr")
    page.set_input_files("#file", kept)
    page.locator("#name", has_text="Minnow").wait_for()
    page.locator(".said.player").wait_for()
    assert answer(page) == said


def test_texts_are_never_markup(page: Any) -> None:
    evil = "<img src=x onerror=document.title='owned'><b id=evil>"
    drop(
        page, "evil.json", json.dumps({"name": evil, "description": evil, "first_mes": evil, "scenario": evil}).encode()
    )
    page.locator(".said .words", has_text="onerror").wait_for()
    page.fill("#line", evil)
    page.press("#line", "Enter")
    page.locator(".figures").wait_for()
    page.locator(".sum").wait_for()
    assert page.locator("#evil, .lines img").count() == 0
    assert page.title() != "owned"


def test_by_keyboard_alone(page: Any) -> None:
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.type("Good evening!")
    page.keyboard.press("Enter")
    page.locator(".figures").wait_for()
    assert page.locator("#heard").text_content().startswith("Minnow: ")
    page.locator("#tab-why").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#pane-dials").is_visible()
    assert page.evaluate("document.activeElement.id") == "tab-dials"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    before = float(page.locator("#temperature-now").text_content())
    page.keyboard.press("ArrowRight")
    assert float(page.locator("#temperature-now").text_content()) == pytest.approx(before + 0.05)
    page.locator(".person input:checked").focus()
    page.keyboard.press("ArrowDown")
    page.locator("#name", has_text="Ephrem Luddock").wait_for()


@pytest.mark.parametrize(("width", "height"), [(360, 740), (768, 1024), (1440, 900)])
def test_nothing_sticks_out(open_page: Callable[..., Any], width: int, height: int) -> None:
    page = open_page(width=width, height=height)
    views = page.locator(".views button")
    for number in range(views.count()):
        if views.nth(number).is_visible():
            views.nth(number).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.documentElement.scrollHeight") <= height


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_no_serious_fault(open_page: Callable[..., Any], node_modules: Path, scheme: str, width: int) -> None:
    page = open_page(width=width, scheme=scheme)
    ask(page, "How many pennies make a heron?")
    page.evaluate((node_modules / "axe-core" / "axe.min.js").read_text("utf-8"))
    for view in ("cast", "talk", "inspect"):
        if page.locator(f".views [data-view={view}]").is_visible():
            page.locator(f".views [data-view={view}]").click()
        for pane in ("Why", "Settings", "Code") if page.locator("#inspect").is_visible() else ("",):
            if pane:
                tab(page, pane)
            faults(page, f"{view} {pane}")
    if page.locator(".views").is_visible():
        page.locator(".views [data-view=talk]").click()
    page.click("#edit")
    faults(page, "editor")


def faults(page: Any, where: str) -> None:
    found = page.evaluate("axe.run().then((found) => found.violations)")
    serious = [
        (one["id"], [node["html"] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == [], where


def words_of_events(text: str) -> str:
    """What curl printed, joined."""
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def execute(language: str, program: str, folder: Path) -> str:
    """Run a program of the page as it stands."""
    name, command = {
        "Python": ("line.py", [sys.executable]),
        "LangChain": ("line.py", [sys.executable]),
        "JavaScript": ("line.mjs", ["node"]),
        "curl": ("line.sh", ["sh"]),
    }[language]
    (folder / name).write_text(program, "utf-8")
    environment = {**os.environ, "NVIDIA_USAGE_TELEMETRY_ENABLED": "0", "PYTHONUTF8": "1"}
    run = subprocess.run(
        [*command, name], cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert run.returncode == 0, run.stderr
    return words_of_events(run.stdout) if language == "curl" else run.stdout.removesuffix("\n")


def need(language: str, request: pytest.FixtureRequest, folder: Path) -> None:
    """Skip what cannot run here; Node finds its packages beside the program."""
    if language == "LangChain":
        pytest.importorskip("langchain_nvidia_ai_endpoints", reason="pip install langchain-nvidia-ai-endpoints")
    if language == "JavaScript":
        if shutil.which("node") is None:
            pytest.skip("There is no Node.")
        (folder / "node_modules").symlink_to(request.getfixturevalue("node_modules").resolve())


LANGUAGES = ["Python", "LangChain", "JavaScript", "curl"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_code_on_screen_gives_the_answer_on_screen(
    page: Any, request: pytest.FixtureRequest, tmp_path: Path, language: str
) -> None:
    need(language, request, tmp_path)
    tab(page, "Settings")
    turn(page, "temperature", 0.9)
    turn(page, "seed", 42)
    ask(page, "Who are you, \"really\"? It's 5 o'clock \\ 'tis late — drück mich, 狐!\nSay.")
    said = ask(page, "How many pennies make a heron, and what of the market?")
    program = copied(page, language)
    assert '"How many pennies make a heron, and what of the market?"' in program
    assert execute(language, program, tmp_path) == said


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_code_of_a_turn_with_a_call(
    page: Any, request: pytest.FixtureRequest, tmp_path: Path, language: str
) -> None:
    need(language, request, tmp_path)
    call(page)
    page.keyboard.press("Enter")
    page.locator("#say").wait_for()
    program = copied(page, language)
    assert "rent_room" in program
    said = page.locator(".said.character").last.locator(".words").last.text_content()
    assert execute(language, program, tmp_path) == said
