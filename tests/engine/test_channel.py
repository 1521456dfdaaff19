"""Records go from one process to another, whole and in their order."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from understudy.engine.channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    pairs = [os.pipe(), os.pipe()]
    (there_reads, here_writes), (here_reads, there_writes) = pairs
    here = Channel(os.fdopen(here_reads, "rb"), os.fdopen(here_writes, "wb"))
    there = Channel(os.fdopen(there_reads, "rb"), os.fdopen(there_writes, "wb"))
    yield here, there
    for end in (here, there):
        end.close()
    for end in (here, there):
        with pytest.raises(EOFError):
            end.receive()


def test_a_record_and_its_bytes_arrive(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    record = ["submit", 7, {"text": 'Ä "quoted"\n\u2028', "logprob": float("-inf"), "nothing": None}]
    here.send(record)
    here.send([], b"\x00\xff" * 9)
    assert there.receive() == (record, b"")
    assert there.receive() == ([], b"\x00\xff" * 9)


def test_what_is_larger_than_the_pipe_arrives_whole(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    blob = os.urandom(3 << 20)
    sender = threading.Thread(target=here.send, args=(["import"], blob))
    sender.start()
    assert there.receive() == (["import"], blob)
    sender.join()


def test_records_of_many_threads_are_not_mixed(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    senders = [
        threading.Thread(target=lambda n=n: [here.send([n, i], bytes([n]) * 5000) for i in range(50)]) for n in range(8)
    ]
    for sender in senders:
        sender.start()
    last = [-1] * 8
    for _ in range(400):
        (number, i), blob = there.receive()
        assert i == last[number] + 1
        assert blob == bytes([number]) * 5000
        last[number] = i
    for sender in senders:
        sender.join()


def test_the_other_sides_end_is_told(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.send(["last"])
    here.close()
    assert there.receive() == (["last"], b"")
    with pytest.raises(EOFError):
        there.receive()


def test_half_a_record_is_an_end() -> None:
    reading, writing = os.pipe()
    with closing(os.fdopen(os.dup(writing), "wb")) as unused:
        channel = Channel(os.fdopen(reading, "rb"), unused)
        os.write(writing, b"\x05\x00\x00\x00" + bytes(8) + b"[1")
        os.close(writing)
        unused.close()
        with pytest.raises(EOFError):
            channel.receive()


def test_nobody_to_send_to_is_an_error(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.close()
    with pytest.raises(ValueError, match="closed"):
        here.send([])
    with pytest.raises(EOFError):  # closes the pipe that `here` would write to
        there.receive()
