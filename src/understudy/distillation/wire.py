"""Messages between a teacher's process and a student's: length-prefixed JSON and safetensors over a loopback socket.

A message is two lengths (8 bytes each, little-endian), a JSON object, and tensors as a safetensors file. Both ends
prove that they know the token of the address file before anything else is read, and no length is trusted beyond what
the reader expects; nothing that comes is ever executed.
"""

import hashlib
import hmac
import json
import secrets
import socket
import struct
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from understudy.errors import DataError

__all__ = ["greet", "read_message", "welcome", "write_message"]

_LENGTHS = struct.Struct("<QQ")
_NONCE_BYTES = 32
_MAX_JSON_BYTES = 1 << 20
_PROOF_BYTES = hashlib.sha256().digest_size


def write_message(
    connection: socket.socket, words: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
) -> None:
    """Send a JSON object and named tensors."""
    text = json.dumps(words).encode()
    body = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}) if tensors else b""
    connection.sendall(_LENGTHS.pack(len(text), len(body)) + text)
    connection.sendall(body)


def read_message(connection: socket.socket, *, max_bytes: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Receive a JSON object and named tensors.

    Args:
        connection: an open socket.
        max_bytes: of tensors, with their names; more is refused before it is read.

    Raises:
        DataError: the other end left, or sent something else or more.
    """
    num_text, num_body = _LENGTHS.unpack(_receive(connection, _LENGTHS.size))
    if num_text > _MAX_JSON_BYTES or num_body > max_bytes:
        raise DataError(
            f"The other process announces {num_text} + {num_body} bytes where at most {_MAX_JSON_BYTES} + {max_bytes} "
            "make sense; do both processes run the same version of Understudy?"
        )
    text, body = _receive(connection, num_text), _receive(connection, num_body)
    try:
        words, tensors = json.loads(text), load(bytes(body)) if body else {}
    except (ValueError, SafetensorError, KeyError) as error:
        raise DataError(f"The other process sent no message that can be read: {error}.") from error
    if not isinstance(words, dict):
        raise DataError(f"The other process sent {type(words).__name__} in place of a JSON object.")
    return words, tensors


def welcome(connection: socket.socket, token: bytes) -> None:
    """The server's half of the greeting.

    Raises:
        DataError: the other end does not know the token.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    connection.sendall(nonce)
    theirs = bytes(_receive(connection, _NONCE_BYTES))
    if not hmac.compare_digest(bytes(_receive(connection, _PROOF_BYTES)), _proof(token, b"client", nonce, theirs)):
        raise DataError("A process without the address file's token was turned away.")
    connection.sendall(_proof(token, b"server", nonce, theirs))


def greet(connection: socket.socket, token: bytes) -> None:
    """The client's half of the greeting.

    Raises:
        DataError: the other end does not know the token.
    """
    theirs = bytes(_receive(connection, _NONCE_BYTES))
    nonce = secrets.token_bytes(_NONCE_BYTES)
    connection.sendall(nonce + _proof(token, b"client", theirs, nonce))
    if not hmac.compare_digest(bytes(_receive(connection, _PROOF_BYTES)), _proof(token, b"server", theirs, nonce)):
        raise DataError("What listens there is not the teacher of the address file; start the teacher again.")


def _proof(token: bytes, role: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    return hmac.digest(token, role + server_nonce + client_nonce, hashlib.sha256)


def _receive(connection: socket.socket, count: int) -> bytearray:
    data = bytearray()
    while len(data) < count:  # grows with what comes, not with what was announced
        piece = connection.recv(min(count - len(data), 1 << 20))
        if not piece:
            raise DataError("The other process closed the connection; is the teacher still running?")
        data += piece
    return data
