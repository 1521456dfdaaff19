"""A bench binary of llama.cpp or of a relative under measurement: any program with `llama-bench`'s options and JSON."""

import json
import subprocess
from pathlib import Path
from typing import Any

from understudy.errors import EngineError

__all__ = ["LlamaBench"]

_TIMEOUT_S = 1800


class LlamaBench:
    """Runs the binary once a question, so that it takes its turns with the engines in processes of their own.

    Attributes:
        name: of the file.
        version: the build that the binary names.
        load_s: None; the binary does not tell.
        can: the tasks it can be asked for.
    """

    can = frozenset({"prefill", "decode"})
    load_s: float | None = None

    def __init__(self, binary: Path, model: Path, *, threads: int) -> None:
        """Ask the binary for one token, and so whether it can read the model.

        Raises:
            EngineError: it cannot be run, or does not answer as llama-bench does.
        """
        self.name = binary.name
        self._command = [str(binary), "-m", str(model), "-t", str(threads), "-r", "1", "-o", "json"]
        self._context = 0
        found = self._measure(prompt=1, generated=0, depth=0)
        self.version = f"{found.get('build_commit', 'unknown build')}, {found.get('model_type', 'unknown model')}"

    def ask(self, **command: int) -> dict[str, Any]:
        """Answer as `EngineProcess.ask` does; memory is not told.

        Raises:
            EngineError: as when it is made.
        """
        answer: dict[str, Any] = {}
        if "prefill" in command:
            count = command["prefill"]
            answer["seconds"] = count / self._measure(prompt=count, generated=0, depth=0)["avg_ts"]
        self._context = command.get("context", self._context)
        if "decode" in command:
            found = self._measure(prompt=0, generated=command["decode"], depth=self._context)
            answer["seconds_a_token"] = 1 / found["avg_ts"]
        return answer

    def close(self) -> None:
        """Nothing is left running between questions."""

    def _measure(self, *, prompt: int, generated: int, depth: int) -> dict[str, Any]:
        asked = ["-p", str(prompt), "-n", str(generated), *(("-d", str(depth)) if depth else ())]
        try:
            ran = subprocess.run(
                [*self._command, *asked], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"{self.name} cannot be run: {error}.") from error
        if ran.returncode:
            last = (ran.stderr.strip().splitlines() or ["no word of why"])[-1]
            raise EngineError(f"{self.name} {' '.join(asked)} ended with exit code {ran.returncode}: {last}")
        try:
            found = [row for row in json.loads(ran.stdout) if row["avg_ts"] > 0]
        except (ValueError, TypeError, KeyError) as error:
            raise EngineError(
                f"{self.name} does not answer as llama-bench -o json does: {ran.stdout[:80]!r}."
            ) from error
        if len(found) != 1:
            raise EngineError(f"{self.name} {' '.join(asked)} gave {len(found)} results; expected one.")
        result: dict[str, Any] = found[0]
        return result
