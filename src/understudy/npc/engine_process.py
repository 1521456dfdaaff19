"""A model's engine in a process of its own, started by `Model.load(own_process=True)`."""

import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from understudy.engine import Engine, RemoteEngine
from understudy.engine.channel import Channel
from understudy.engine.worker import LogToChannel, serve_engine
from understudy.errors import EngineError, ModelFileError, UnderstudyError
from understudy.model.checkpoint import LoadedModel
from understudy.model.gpu_limits import GpuLimits
from understudy.model.mapped_file import file_marks

__all__ = ["can_start_engines", "main", "start_engine"]

# The package may lie where only this process looks for it.
_PROGRAM = "import sys; sys.path.append({!r}); from understudy.npc.engine_process import main; main()"
_GC_THRESHOLD = 20_000


def can_start_engines() -> bool:
    """Whether `sys.executable` is a Python: in a program frozen into one file it is the program itself."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def start_engine(files: LoadedModel, *, path: Path | None, adapter: Path | None, **how: Any) -> RemoteEngine:
    """Start the process; it loads the model meanwhile, see `RemoteEngine.wait`.

    Args:
        files: the model as it was loaded here. Where its file is another one when the process looks, now or when it is
            started anew, the two would not understand each other: then the engine fails.
        path: as of `Model.load`.
        adapter: as of `Model.load`.
        how: further arguments of `Model.load`, JSON's types.

    Raises:
        EngineError: the process cannot be started.
    """
    if not can_start_engines():
        raise EngineError("There is no Python here that another process could run; load the model without own_process.")
    setup = {
        **how,
        "path": None if path is None else str(path),
        "adapter": None if adapter is None else str(adapter),
        "seen": file_marks(files.path, adapter),
    }
    level = logging.getLogger("understudy").getEffectiveLevel()
    program = _PROGRAM.format(str(Path(__file__).parents[2]))
    # -P: the folder that a player starts the game in is no place for modules.
    return RemoteEngine([sys.executable, "-P", "-c", program], {**setup, "log_level": level}, config=files.config)


def main() -> None:
    """Load what the first record says, and answer until the other side is gone."""
    from understudy.npc.model import Model
    from understudy.tools.grammar import Grammar

    # A terminal or a service manager tells all processes to end; when this one does, the other says.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    gc.set_threshold(_GC_THRESHOLD)  # tokens come and go without cycles
    with os.fdopen(os.dup(0), "rb") as reading, os.fdopen(os.dup(1), "wb") as writing:
        os.dup2(2, 1)  # what a library prints shall not get between the records
        channel = Channel(reading, writing)
        setup, _ = channel.receive()
        logging.basicConfig(level=setup.pop("log_level"), handlers=[LogToChannel(channel)])
        gpu, seen, adapter = setup.pop("gpu"), setup.pop("seen"), setup["adapter"]
        try:
            model = Model.load(**setup, gpu=None if gpu is None else GpuLimits(**gpu))
            if file_marks(model.files.path, None if adapter is None else Path(adapter)) != seen:
                model.close()
                raise ModelFileError(f"{model.files.path} is another file now; reload the model, or start anew.")
        except UnderstudyError as error:
            channel.send(["failed", type(error).__name__, str(error)])
            return
        with model:
            assert isinstance(model.engine, Engine)
            serve_engine(channel, model.engine, revive=lambda told: model.vocabulary.compile(Grammar(**told)))
