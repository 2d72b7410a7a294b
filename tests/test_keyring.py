"""The format of sealed records is frozen; a record opens in its own place and nowhere else."""

import json
import pickle
from dataclasses import replace

import pytest

from broker.encryption.keyring import (
    DecryptionFailed,
    Keyring,
    Master,
    Place,
    Purpose,
    UnknownKey,
    WrappedKey,
    WrongMaster,
    kid_of,
    new_master_text,
    parse_master,
)
from broker.model import Secret

KID = "00112233445566ff"
RING = Keyring(active=KID, keys={KID: bytes(range(32))}, index_key=b"i" * 32)
PLACE = Place("accounts", "acme", 1, 7, "access_token")
VECTORS = [
    (PLACE, "at-1", "VEIxABEiM0RVZv9MZWwbhVMHYAyh3bx9q_yAU3a06hqnHT5tWJL2-MfECw"),
    (
        Place("accounts", "acme", 1, 7, "refresh_token"),
        "rt-ü€",
        "VEIxABEiM0RVZv8lIC34spjK3eqzYojKPUC7Eln-v7YKXsxC9NZsadv1erHHxxA",
    ),
    (
        Place("spares", "kit-1", 3, 2**40, "refresh_token:ab"),
        "x" * 50,
        "VEIxABEiM0RVZv-5KPUmARm_FlwrYzdFboCDie6NNf06Ucd65rOOabIvPZkcUvxCUH_hjrymTjL21CDXxK55Xq5_l0dCJAX0tZRJNQE3y1Kt"
        "QWV_9kMfePI",
    ),
]
WRAPPED = WrappedKey(
    kid=KID,
    purpose=Purpose.DATA,
    wrapped="vjlL2FkgMVbVHKRrgg71IYJ148esY7HhvPr3bjgmhfG6SFytD5YTna7PZs6lBR-vijT04Pqgc8G78z_x",
    master_id="fd0a02c3",
    active=True,
    created_at=0.0,
)


@pytest.mark.parametrize(("place", "plaintext", "record"), VECTORS)
def test_records_of_the_past_open_for_ever(place: Place, plaintext: str, record: str) -> None:
    """Made once, written down here: who breaks this breaks every store there is."""
    assert Secret(plaintext) == RING.decrypt(place, record)
    assert KID == kid_of(record)


def test_wrapped_keys_and_hashes_of_the_past_stay_the_same() -> None:
    """The wrapping, the master's id and the keyed hashes are frozen as well."""
    master = Master(bytes(range(32)))

    assert "fd0a02c3" == master.id
    assert b"k" * 32 == master.unwrap(WRAPPED)
    assert "a591dd41ec74b811" == RING.fingerprint("audit token", "at-1")


@pytest.mark.parametrize(
    "change",
    [
        {"table": "spares"},
        {"name": "acme2"},
        {"name": "acm"},
        {"epoch": 2},
        {"generation": 8},
        {"field": "refresh_token"},
        # Without lengths these would run into one another.
        {"table": "account", "name": "sacme"},
    ],
)
def test_record_opens_nowhere_else(change: dict[str, object]) -> None:
    """Rows and fields cannot be swapped, and none put back to an older generation."""
    record = RING.encrypt(PLACE, Secret("s"))

    with pytest.raises(DecryptionFailed):
        RING.decrypt(replace(PLACE, **change), record)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize("position", range(0, 60, 3))
def test_damaged_record_does_not_open(position: int) -> None:
    """Any changed character is noticed."""
    record = VECTORS[0][2]
    damaged = record[:position] + ("A" if record[position] != "A" else "B") + record[position + 1 :]

    with pytest.raises(DecryptionFailed):
        RING.decrypt(PLACE, damaged)


@pytest.mark.parametrize("record", ["", "x", "VEIx", VECTORS[0][2][:-8], "ü" * 60, VECTORS[0][2] + "AAAA"])
def test_garbage_is_no_record(record: str) -> None:
    """Cut, lengthened or foreign text breaks the seal, and nothing else."""
    with pytest.raises(DecryptionFailed):
        RING.decrypt(PLACE, record)


def test_unknown_key_is_named() -> None:
    """A record of a key that is not in the ring says which one is missing."""
    other = Keyring(active="ff" * 8, keys={"ff" * 8: b"o" * 32}, index_key=b"i" * 32)

    with pytest.raises(UnknownKey, match="f" * 16):
        RING.decrypt(PLACE, other.encrypt(PLACE, Secret("s")))


def test_same_secret_is_never_sealed_alike() -> None:
    """A nonce of its own for each record."""
    assert 100 == len({RING.encrypt(PLACE, Secret("s")) for _ in range(100)})


def test_wrong_master_names_both() -> None:
    """The message says which master wrapped the key and which one was given."""
    with pytest.raises(WrongMaster, match=r"fd0a02c3.*" + Master(b"x" * 32).id):
        Master(b"x" * 32).unwrap(WRAPPED)


@pytest.mark.parametrize("change", [{"kid": "ff" * 8}, {"purpose": Purpose.INDEX}])
def test_wrapped_key_is_bound_to_its_id_and_purpose(change: dict[str, object]) -> None:
    """A data key cannot be passed off as another."""
    with pytest.raises(WrongMaster):
        Master(bytes(range(32))).unwrap(replace(WRAPPED, **change))  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    "wrapped", ["", "x", "AAAA", "ü", WRAPPED.wrapped[:-4], WRAPPED.wrapped[4:], WRAPPED.wrapped + "AAAA"]
)
def test_damaged_wrapped_key_does_not_open(wrapped: str) -> None:
    """With the same sentence: nobody can tell damage from another master."""
    with pytest.raises(WrongMaster, match=KID):
        Master(bytes(range(32))).unwrap(replace(WRAPPED, wrapped=wrapped))


def test_key_is_unwrapped_as_it_was_wrapped() -> None:
    """Each wrapping looks different, and names its master."""
    master, key = Master(b"m" * 32), b"k" * 32
    wrapped = [master.wrap(key, kid=KID, purpose=Purpose.INDEX, created_at=5.0) for _ in range(20)]

    assert {key} == {master.unwrap(one) for one in wrapped}
    assert 20 == len({one.wrapped for one in wrapped})
    assert {(master.id, KID, Purpose.INDEX, True, 5.0)} == {
        (one.master_id, one.kid, one.purpose, one.active, one.created_at) for one in wrapped
    }


def test_keyed_hash_serves_one_purpose() -> None:
    """Equal for equal text, different for another purpose or another ring, and longer where it is asked for."""
    other = Keyring(active=KID, keys={KID: bytes(range(32))}, index_key=b"j" * 32)

    assert RING.fingerprint("a", "x") == RING.fingerprint("a", "x")
    assert 4 == len(
        {
            RING.fingerprint("a", "x"),
            RING.fingerprint("b", "x"),
            RING.fingerprint("a", "y"),
            other.fingerprint("a", "x"),
        }
    )
    assert RING.fingerprint("a", "x") == RING.derive("a", b"x").hex()[:16]


def test_older_key_still_opens() -> None:
    """New records are sealed with the active key; those of the others open as before."""
    new = "aa" * 8
    ring = Keyring(active=new, keys={KID: bytes(range(32)), new: b"n" * 32}, index_key=b"i" * 32)

    assert Secret("at-1") == ring.decrypt(PLACE, VECTORS[0][2])
    assert new == ring.active == kid_of(ring.encrypt(PLACE, Secret("s")))


def test_master_key_is_read_as_base64_hex_or_raw() -> None:
    """The forms a file or a command may give, with or without a newline."""
    raw = bytes(range(32))
    forms = [raw, raw.hex().encode() + b"\n", b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"]

    assert {"fd0a02c3"} == {parse_master(form).id for form in forms}
    assert parse_master(new_master_text().encode()).id != parse_master(new_master_text().encode()).id


@pytest.mark.parametrize("raw", [b"", b"short", b"A" * 45, b"zz" * 32, b"\xff" * 31])
def test_other_lengths_are_no_master_key(raw: bytes) -> None:
    """The message says what one looks like, and quotes nothing."""
    with pytest.raises(ValueError, match="44 characters of base64"):
        parse_master(raw)


def test_secret_does_not_print_or_travel() -> None:
    """Not in a repr, a format, JSON or a pickle; equal only to itself."""
    secret = Secret("hunter2")

    assert "hunter2" not in f"{secret} {secret!r} {secret:>20} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert Secret("hunter2") == secret
    assert secret != "hunter2"
