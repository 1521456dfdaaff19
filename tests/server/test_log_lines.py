import contextlib
import io
import logging
import threading
import time

from understudy.server.log_lines import set_up_log

LOG = logging.getLogger("understudy.server.here")
WAIT_S = 20


def test_lines_come_whole_and_in_their_order_a_little_later() -> None:
    written = io.StringIO()
    with contextlib.redirect_stderr(written), set_up_log("text"):
        for number in range(3):
            LOG.info("line %d.", number)
        deadline = time.monotonic() + WAIT_S
        while "line 2." not in written.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        LOG.info("line 3.")
    told = [line.split("here: ")[1] for line in written.getvalue().splitlines()]
    assert told == [f"line {number}." for number in range(4)]


def test_warnings_and_what_others_tell_are_there_at_once() -> None:
    written = io.StringIO()
    with contextlib.redirect_stderr(written), set_up_log("text"):
        LOG.info("first")
        LOG.warning("second")
        assert [line[-6:] for line in written.getvalue().splitlines()] == [" first", "second"]
        logging.getLogger("uvicorn").info("third")
        assert written.getvalue().endswith("third\n")


def test_threads_lose_no_line() -> None:
    written = io.StringIO()

    def tell(thread: int) -> None:
        for number in range(200):
            LOG.info("%d of %d.", number, thread)

    with contextlib.redirect_stderr(written), set_up_log("text"):
        threads = [threading.Thread(target=tell, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    told = [line.split("here: ")[1] for line in written.getvalue().splitlines()]
    assert sorted(told) == sorted(f"{number} of {thread}." for thread in range(4) for number in range(200))


class Broken(io.StringIO):
    """A disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


class Stuck(io.StringIO):
    """A pipe that is full until somebody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = threading.Event()

    def write(self, text: str) -> int:
        assert self.is_read.wait(WAIT_S)
        return super().write(text)


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    with contextlib.redirect_stderr(Broken()), set_up_log("text"):
        LOG.info("lost")
        LOG.warning("lost, too")


def test_who_works_does_not_wait_for_who_reads_the_log() -> None:
    stuck = Stuck()
    with contextlib.redirect_stderr(stuck), set_up_log("text"):
        began = time.monotonic()
        for number in range(20_000):
            LOG.info("line %d.", number)
        assert time.monotonic() - began < WAIT_S
        stuck.is_read.set()
    told = stuck.getvalue().splitlines()
    assert told[-1].endswith("line 19999.")
    assert 10_000 <= len(told) <= 20_000  # the oldest of those that waited went
