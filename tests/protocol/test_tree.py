"""One signature for many events, against the definition of RFC 6962 §2.1 written down once more."""

from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.errors import AuthenticationFailed, InvalidRequest
from app.protocol.keys import KeyRecord, load_public_key
from app.protocol.members import encode_base64
from app.protocol.signing import Kind, Signer, tree_input, verify_in_tree
from app.protocol.tree import Proof, Tree, fold, leaf, read_proof, sides


def mth(data: list[bytes]) -> bytes:
    """MTH(D[n]) of §2.1, to the letter."""
    if len(data) == 1:
        return sha256(b"\x00" + data[0]).digest()
    k = split(len(data))
    return sha256(b"\x01" + mth(data[:k]) + mth(data[k:])).digest()


def path(m: int, data: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]) of §2.1.1, to the letter."""
    if len(data) == 1:
        return []
    k = split(len(data))
    if m < k:
        return [*path(m, data[:k]), mth(data[k:])]
    return [*path(m - k, data[k:]), mth(data[:k])]


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=200))
def test_root_and_paths_are_those_of_the_definition(data: list[bytes]) -> None:
    tree = Tree([leaf(one) for one in data])

    proofs = [tree.proof(index) for index in range(len(data))]

    assert tree.root == mth(data)
    assert [list(proof.path) for proof in proofs] == [path(m, data) for m in range(len(data))]
    assert {fold(leaf(one), proof) for one, proof in zip(data, proofs, strict=True)} == {tree.root}


@pytest.mark.parametrize("size", [2, 3, 5, 7, 8, 9, 100, 1000, 1023, 1024])
def test_a_path_is_as_long_as_index_and_size_say(size: int) -> None:
    tree = Tree([leaf(b"%d" % n) for n in range(size)])

    lengths = [len(tree.proof(index).path) for index in range(size)]

    assert lengths == [len(sides(index, size)) for index in range(size)]


@given(st.data())
def test_no_other_place_leads_to_the_root(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 64))
    tree = Tree([leaf(b"%d" % n) for n in range(size)])
    index, other = data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True))
    proof = tree.proof(index)

    moved = Proof(other, size, proof.path)

    assert len(sides(other, size)) != len(proof.path) or fold(leaf(b"%d" % index), moved) != tree.root


@given(st.integers(2, 64), st.data())
def test_no_other_hash_on_the_way_leads_to_the_root(size: int, data: st.DataObject) -> None:
    tree = Tree([leaf(b"%d" % n) for n in range(size)])
    proof = tree.proof(data.draw(st.integers(0, size - 1)))
    changed = data.draw(st.integers(0, len(proof.path) - 1))
    bit = data.draw(st.integers(0, 255))
    hashes = list(proof.path)
    hashes[changed] = (int.from_bytes(hashes[changed]) ^ (1 << bit)).to_bytes(32)

    root = fold(leaf(b"%d" % proof.index), replace(proof, path=tuple(hashes)))

    assert root != tree.root


def test_a_tree_has_at_least_one_leaf() -> None:
    with pytest.raises(ValueError, match="at least one leaf"):
        Tree([])


def test_a_proof_is_read_as_it_was_written() -> None:
    proof = Tree([leaf(b"%d" % n) for n in range(5)]).proof(2)

    read = read_proof({"proof": _wire(proof)}, "")

    assert read == proof


HASH = encode_base64(bytes(32))


@pytest.mark.parametrize(
    ("proof", "pointer"),
    [
        (None, "/proof"),
        ([], "/proof"),
        ({"size": 2, "path": [HASH]}, "/proof/index"),
        ({"index": 2, "size": 2, "path": [HASH]}, "/proof/index"),
        ({"index": -1, "size": 2, "path": [HASH]}, "/proof/index"),
        ({"index": 0, "size": 1, "path": []}, "/proof/size"),
        ({"index": 0, "size": 1025, "path": [HASH] * 11}, "/proof/size"),
        ({"index": 0, "size": True, "path": [HASH]}, "/proof/size"),
        ({"index": 0, "size": 2}, "/proof/path"),
        ({"index": 0, "size": 2, "path": []}, "/proof/path"),
        ({"index": 0, "size": 2, "path": [HASH, HASH]}, "/proof/path"),
        ({"index": 0, "size": 2, "path": [HASH] * 9_000}, "/proof/path"),
        ({"index": 2, "size": 3, "path": [HASH, HASH]}, "/proof/path"),
        ({"index": 0, "size": 2, "path": [7]}, "/proof/path/0"),
        ({"index": 0, "size": 2, "path": [HASH[:-2] + "=="]}, "/proof/path/0"),
        ({"index": 0, "size": 3, "path": [HASH, HASH[:-1]]}, "/proof/path/1"),
    ],
)
def test_a_malformed_proof_is_refused_at_its_place(proof: object, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_proof({"proof": proof}, "")

    assert [error.pointer for error in refused.value.errors] == [pointer]


BODIES = [b'{"n":%d}' % n for n in range(7)]


def test_events_that_were_signed_together_verify_each_by_itself(
    signer: Signer, rsa_record: KeyRecord
) -> None:
    signed = signer.sign_together(BODIES)

    for body, one in zip(BODIES, signed, strict=True):
        assert one.proof is not None
        verify_in_tree(body, one.signature, one.proof, rsa_record.public_key_pem)


def test_what_is_signed_for_a_tree_is_its_root_in_a_domain_of_its_own(signer: Signer) -> None:
    [first, *_] = signer.sign_together(BODIES)

    root = encode_base64(mth([b"tidings/1\nevent\n" + body for body in BODIES])).encode()

    assert first.proof is not None
    assert tree_input(BODIES[0], first.proof) == b"tidings/1\nevent-tree\n" + root
    assert signer.sign_body(Kind.EVENT_TREE, root) == first.signature


def test_another_event_key_signature_or_place_is_refused(
    signer: Signer, rsa_record: KeyRecord, ed25519_record: KeyRecord
) -> None:
    first, second, *_ = signer.sign_together(BODIES)
    others = signer.sign_together(BODIES[::-1])
    pem = rsa_record.public_key_pem
    assert first.proof is not None
    assert second.proof is not None
    lies = [
        (b'{"n":9}', first.signature, first.proof, pem),
        (BODIES[0], others[0].signature, first.proof, pem),
        (BODIES[0], first.signature, second.proof, pem),
        (BODIES[0], first.signature, first.proof, ed25519_record.public_key_pem),
        (BODIES[0], "", first.proof, pem),
        (BODIES[0], signer.sign_body(Kind.EVENT, BODIES[0]), first.proof, pem),
    ]

    for lie in lies:
        with pytest.raises(AuthenticationFailed):
            verify_in_tree(*lie)


def test_a_root_that_verified_is_not_verified_again(
    signer: Signer, rsa_record: KeyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[bytes] = []
    key = load_public_key(rsa_record.public_key_pem)
    counting = SimpleNamespace(
        verify=lambda signature, data: verified.append(data) or key.verify(signature, data)
    )
    monkeypatch.setattr("app.protocol.signing.load_public_key", lambda pem: counting)
    bodies = [b'{"m":%d}' % n for n in range(20)]
    signed = signer.sign_together(bodies)

    for body, one in zip(bodies, signed, strict=True):
        assert one.proof is not None
        verify_in_tree(body, one.signature, one.proof, rsa_record.public_key_pem)

    assert len(verified) == 1


def _wire(proof: Proof) -> dict[str, object]:
    return {"index": proof.index, "size": proof.size, "path": [encode_base64(one) for one in proof.path]}
