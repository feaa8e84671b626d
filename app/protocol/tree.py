"""Trees: one signature for many events (§1.3), and digests of long lists.

Shape, hashes and audit paths are those of RFC 6962 §2.1:

    leaf = SHA-256(0x00 || data)      node = SHA-256(0x01 || left || right)

Level by level, neighbours are paired and a last one without a neighbour goes up as it is; that is the same
shape as splitting at the largest power of two.
"""

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

from app.protocol.canonical import loads
from app.protocol.errors import invalid
from app.protocol.members import (
    decode_base64,
    encode_base64,
    read_array,
    read_integer,
    read_member_object,
)

#: Events under one signature (§1.3).
MIN_SIZE, MAX_SIZE = 2, 1024


@lru_cache(maxsize=8192)
def sides(index: int, size: int) -> tuple[bool, ...]:
    """The hashes on the way from a leaf to the root: for each, from below, whether it stands on the left."""
    found: list[bool] = []
    while size > 1:
        # A last one without a neighbour goes up as it is.
        if index ^ 1 < size:
            found.append(bool(index & 1))
        index, size = index >> 1, (size + 1) >> 1
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Proof:
    """Where a leaf stands in its tree: `proof` of an event. `path`: the 32-byte hashes from the leaf up."""

    index: int
    size: int
    path: tuple[bytes, ...]

    def to_json(self) -> str:
        """The member as it is sent and stored, in canonical form."""
        hashes = ",".join([f'"{encode_base64(one)}"' for one in self.path])
        return f'{{"index":{self.index},"path":[{hashes}],"size":{self.size}}}'


def leaf(data: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree over the hashes of its leaves, at least one."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves:
            raise ValueError("a tree has at least one leaf")
        self._levels = [list(leaves)]
        while len(level := self._levels[-1]) > 1:
            above = [_node(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
            self._levels.append(above + level[len(above) * 2 :])

    @property
    def root(self) -> bytes:
        """The hash that stands for all leaves and their order."""
        return self._levels[-1][0]

    def proof(self, index: int) -> Proof:
        """The way from a leaf to the root."""
        path, place = [], index
        for level in self._levels[:-1]:
            if place ^ 1 < len(level):
                path.append(level[place ^ 1])
            place >>= 1
        return Proof(index, len(self._levels[0]), tuple(path))


def fold(leaf_hash: bytes, proof: Proof) -> bytes:
    """The root that a leaf's proof leads to. The path must have the length that index and size imply."""
    found = leaf_hash
    for beside, is_left in zip(proof.path, sides(proof.index, proof.size), strict=True):
        found = _node(beside, found) if is_left else _node(found, beside)
    return found


def parse_proof(text: str) -> Proof:
    """A proof that was stored as its `to_json`."""
    stored = loads(text.encode("ascii"))
    return Proof(stored["index"], stored["size"], tuple(binascii.a2b_base64(one) for one in stored["path"]))


def read_proof(message: dict[str, Any], pointer: str) -> Proof:
    """The `proof` of a message, or InvalidRequest at the pointer of what is wrong with its form."""
    proof = read_member_object(message, "proof", pointer)
    within = f"{pointer}/proof"
    size = read_integer(proof, "size", within, MIN_SIZE, MAX_SIZE)
    index = read_integer(proof, "index", within, 0, size - 1)
    path = read_array(proof, "path", within)
    if len(path) != len(sides(index, size)):
        raise invalid(f"{within}/path", "has not the length that index and size imply", "limit")
    return Proof(index, size, tuple(_read_hash(one, f"{within}/path/{n}") for n, one in enumerate(path)))


def _read_hash(value: object, pointer: str) -> bytes:
    data = decode_base64(value) if isinstance(value, str) else None
    if data is None or len(data) != 32:
        raise invalid(pointer, "is no Base64 of 32 bytes", "type")
    return data
