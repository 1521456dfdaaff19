from typing import TYPE_CHECKING

import pytest

from understudy import __version__

if TYPE_CHECKING:
    from conftest import Run


def test_version(run: "Run") -> None:
    assert run("--version").out == f"understudy {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_lists_the_verbs(run: "Run", arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert all(verb in result.out + result.err for verb in ("chat", "serve", "doctor", "train"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope",), "No such command 'nope'"),
        (("chat", "--bogus"), "No such option: --bogus"),
        (("chat", "--seed", "many"), "--seed"),
        (("serve", "--port", "99999"), "--port"),
        (("train",), "Missing argument"),
        (("chat", "--backend", "abacus"), "choose from auto, cpu, reference"),
    ],
)
def test_a_slip_is_one_sentence(run: "Run", arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert result.err.count("\n") == 1


def test_a_bug_keeps_its_traceback(run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.npc.world.default_world", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("chat", "--say", "Hi")


def test_ctrl_c_while_loading_is_no_error(run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("understudy.npc.world.default_world", interrupt)
    result = run("chat", "--say", "Hi")
    assert result.code == 130
    assert "Traceback" not in result.err
