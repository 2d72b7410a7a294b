"""JWTs that nobody should believe, by name: a table, and a generator that breaks good ones."""

import hashlib
import hmac
import json
import random
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.callers.signing import Signer, b64, own_claims, p256
from tests.fakes.issuer import NAME

SUBJECT = "worker"
HUGE = 10**400
ODD: tuple[object, ...] = (
    *(True, False, 0, -1, 1.5, 1e300, -1e300, HUGE, 2**63, "", " ", "x", "null", "\ud800", "\x00", "../x"),
    *("1800000000", [], {}, [[]], [None], [1], {"a": 1}, ["token-broker", 7], ["x"] * 500, "x" * 2000),
    *("REPORTING", "reporting ", "reporting\x00", "reporting\n", "\uff0a", "*"),
)
ALGORITHMS: tuple[object, ...] = (
    *(
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        None,
        1,
        True,
        [],
        {},
        ["EdDSA"],
        "HS256",
        "HS384",
        "HS512",
        "RS256",
    ),
    *("RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "ES256K", "eddsa", "EdDSA ", "Ed25519", "Ed448"),
    *("RSA-OAEP", "dir", "A256KW", "EdDSA\x00", "x" * 500),
)
KIDS: tuple[object, ...] = (
    *("../../etc/passwd", "/dev/null", "file:///dev/null", "' OR '1'='1", "", 7, None, [], {}, True, "\x00"),
    *("k" * 700, "\ud800", "RSA", "rsa ", "rsa\x00", "http://127.0.0.1:1/", "%2e%2e", "rsa/../rsa"),
)
JSON: tuple[bytes, ...] = (
    *(b"", b"[]", b'"x"', b"1", b"null", b"true", b"{", b"{}", b"{,}", b"{'iss': 1}", b'{"iss"}', b"[" * 700),
    *(b'{"a":' * 100 + b"1" + b"}" * 99, b"\xff\xfe", b"\xef\xbb\xbf{}", b"// x\n{}", b"\x00", b"{}{}"),
)


def hostile(own: Signer, issued: Signer, stranger: Signer, now: float) -> Iterator[tuple[str, bytes]]:
    """Names and JWTs; `own` belongs to the caller reporting, `issued` to the issuer."""
    yield from _claims(own, now)
    yield from _members(own, now)
    yield from _headers(own, stranger, now)
    yield from _kids(issued, stranger, now)
    yield from _symmetric((own, "reporting"), (issued, SUBJECT), now)
    yield from _foreign(own, issued, stranger, now)
    yield from _signatures(own, now)
    yield from _forms(own, now)
    yield from _broken(own, now)


def issued_claims(now: float, **changes: object) -> dict[str, object]:
    return own_claims("", now, **{"iss": NAME, "sub": SUBJECT, **changes})


def _claims(own: Signer, now: float) -> Iterator[tuple[str, bytes]]:
    for name in ("iss", "sub", "aud", "iat", "exp"):
        yield f"no {name}", own.sign(own_claims("reporting", now, **{name: None})).encode()
        yield f"{name} is null", own.sign({**own_claims("reporting", now), name: None}).encode()
        for number, value in enumerate(ODD):
            claims = {**own_claims("reporting", now), name: value}
            yield f"{name} is odd {number}", own.sign(claims).encode()
    century = now + 100 * 365 * 86400
    for what, changes in {
        "a century": {"exp": century},
        "a century away": {"iat": century, "exp": century + 60},
        "301 seconds": {"exp": now + 301},
        "no life": {"exp": now},
        "backwards": {"exp": now - 1},
        "over": {"iat": now - 300, "exp": now - 11},
        "early": {"iat": now + 11, "exp": now + 60},
        "not before": {"nbf": now + 11},
    }.items():
        yield what, own.sign({**own_claims("reporting", now), **changes}).encode()
    for number, value in enumerate(["x", True, None, [], {}, HUGE, -1]):
        yield f"nbf is odd {number}", own.sign({**own_claims("reporting", now), "nbf": value}).encode()


def _members(own: Signer, now: float) -> Iterator[tuple[str, bytes]]:
    header, good = b'{"alg":"EdDSA"}', json.dumps(own_claims("reporting", now)).encode()
    for name, value in own_claims("reporting", now).items():
        again = good[:-1] + f', "{name}": {json.dumps(value)}'.encode() + b"}"
        yield f"{name} twice", own.sign_bytes(header, again).encode()
    yield "alg twice", own.sign_bytes(b'{"alg":"none","alg":"EdDSA"}', good).encode()
    yield "alg twice alike", own.sign_bytes(b'{"alg":"EdDSA","alg":"EdDSA"}', good).encode()
    yield "twice inside", own.sign_bytes(header, good[:-1] + b',"x":{"a":1,"a":2}}').encode()
    for constant in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        yield f"{constant!r}", own.sign_bytes(header, good[:-1] + b', "nbf": ' + constant + b"}").encode()
    for constant in (b"NaN", b"Infinity", b"-Infinity", b"undefined", b"01", b"0x1"):
        yield (
            f"{constant!r} unused",
            own.sign_bytes(header, good[:-1] + b', "x": ' + constant + b"}").encode(),
        )
    for number, text in enumerate((*JSON, good.decode().encode("utf-16"), good + b"x", good[:-1])):
        yield f"claims no object {number}", own.sign_bytes(header, text).encode()
        yield f"header no object {number}", own.sign_bytes(text, good).encode()


def _headers(own: Signer, stranger: Signer, now: float) -> Iterator[tuple[str, bytes]]:
    claims = own_claims("reporting", now)
    for number, value in enumerate(ALGORITHMS):
        yield f"alg is odd {number}", own.sign(claims, {"alg": value}).encode()
        yield (
            f"alg is odd {number}, unsigned",
            own.sign(claims, {"alg": value}).rpartition(".")[0].encode() + b".",
        )
    yield "no alg", own.sign_bytes(b"{}", json.dumps(claims).encode()).encode()
    lures: dict[str, Any] = {
        "jwk": stranger.jwk,
        "jku": "https://127.0.0.1/jwks",
        "x5u": "https://127.0.0.1/x",
        "x5c": ["AAAA"],
        "crit": ["exp"],
    }
    for name, value in lures.items():
        yield f"{name} of a stranger", stranger.sign(claims, {name: value}).encode()
        yield f"{name} and signed rightly", own.sign(claims, {name: value}).encode()
        yield f"{name} is null", own.sign(claims, {name: None}).encode()
    yield "detached", own.sign(claims, {"b64": False, "crit": ["b64"]}).encode()
    yield "not encoded", own.sign(claims, {"b64": False}).encode()


def _kids(issued: Signer, stranger: Signer, now: float) -> Iterator[tuple[str, bytes]]:
    for number, kid in enumerate(KIDS):
        yield f"kid is odd {number}", issued.sign(issued_claims(now), {"kid": kid}).encode()
        yield f"kid of a stranger {number}", stranger.sign(issued_claims(now), {"kid": kid}).encode()


def _symmetric(*victims_and_now: Any) -> Iterator[tuple[str, bytes]]:
    """Signed with what is public, as if it were a shared secret."""
    *victims, now = victims_and_now
    for signer, name in victims:
        public = signer.key.public_key()
        secrets = {
            "pem": signer.public_pem.encode(),
            "pem, stripped": signer.public_pem.strip().encode(),
            "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "jwk": json.dumps(signer.jwk).encode(),
            "empty": b"",
        }
        claims = own_claims(name, now) if name != SUBJECT else issued_claims(now)
        for what, secret in secrets.items():
            for algorithm in ("HS256", "HS384", "HS512", "EdDSA", "RS256"):
                yield f"{algorithm} with the {what} of {name}", _mac(algorithm, secret, claims, signer.kid)


def _mac(algorithm: str, secret: bytes, claims: dict[str, object], kid: str) -> bytes:
    header = b64(json.dumps({"alg": algorithm, "kid": kid}).encode())
    signed = f"{header}.{b64(json.dumps(claims).encode())}"
    digest = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}.get(algorithm, hashlib.sha256)
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), digest).digest())}".encode()


def _foreign(own: Signer, issued: Signer, stranger: Signer, now: float) -> Iterator[tuple[str, bytes]]:
    """The right kind of signature by the wrong hand."""
    for what, jwt in {
        "a stranger as reporting": stranger.sign(own_claims("reporting", now)),
        "a stranger as the issuer": stranger.sign(issued_claims(now), {"kid": issued.kid}),
        "the issuer as reporting": issued.sign(own_claims("reporting", now), {"kid": issued.kid}),
        "reporting as the issuer": own.sign(issued_claims(now), {"kid": issued.kid}),
        "reporting as billing": own.sign(own_claims("billing", now)),
        "reporting as nightly": own.sign(own_claims("nightly", now)),
        "reporting for billing": own.sign(own_claims("reporting", now, sub="billing")),
        "the issuer for another": issued.sign(issued_claims(now, sub="reporting"), {"kid": issued.kid}),
        "P-256 as reporting": p256().sign(own_claims("reporting", now)),
    }.items():
        yield what, jwt.encode()


def _signatures(own: Signer, now: float) -> Iterator[tuple[str, bytes]]:
    good = own.sign(own_claims("reporting", now))
    signed, _, signature = good.rpartition(".")
    other = own.sign(own_claims("reporting", now, jti=1)).rpartition(".")[2]
    nist = p256().sign(own_claims("billing", now)).rpartition(".")[0]
    for what, jwt in {
        "no signature": f"{signed}.",
        "no dot": signed,
        "another's signature": f"{signed}.{other}",
        "cut": f"{signed}.{signature[:-4]}",
        "longer": f"{signed}.{signature}AAAA",
        "zeros": f"{signed}.{b64(bytes(64))}",
        "identity": f"{signed}.{b64(bytes([1]) + bytes(63))}",
        "psychic": f"{nist}.{b64(bytes(64))}",
        "psychic in DER": f"{nist}.{b64(encode_dss_signature(0, 0))}",
        "not canonical": f"{signed}.{signature[:-1]}{_next(signature[-1])}",
        "padded": f"{signed}.{signature}==",
    }.items():
        yield what, jwt.encode()


def _next(letter: str) -> str:
    """The next letter of the alphabet, which differs in bits that belong to no byte."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"["AQgw".index(letter) * 16 + 1]


def _forms(own: Signer, now: float) -> Iterator[tuple[str, bytes]]:
    good = own.sign(own_claims("reporting", now)).encode()
    first, second, third = good.split(b".")
    yield from {
        "a dot more": good + b".",
        "a dot first": b"." + good,
        "five parts": good + b".AAAA.AAAA",
        "no claims": first + b".." + third,
        "only dots": b"..",
        "parts swapped": b".".join((second, first, third)),
        "a space inside": first + b". " + second + b"." + third,
        "a tab inside": first + b".\t" + second + b"." + third,
        "two credentials": good + b", Bearer " + good,
        "a comma": good + b",",
        "in quotes": b'"' + good + b'"',
        "a NUL": good + b"\x00",
        "a line feed": good + b"\nX: y",
        "0xff": good + b"\xff",
        "0xff inside": first + b".\xff" + second + b"." + third,
        "a surrogate": good + b"\xed\xa0\x80",
        "a letter that is no ASCII": good + "\uff45".encode(),
        "standard base64": good.replace(b"-", b"+").replace(b"_", b"/") + b"+/",
        "percent": good.replace(b".", b"%2e"),
        "escaped": b"\\u0065" + good[1:],
        "long": first + b"." + b"A" * 4000 + b"." + third,
        "longer than a header": b"A" * 9000,
        "100 KB": first + b"." + b"A" * 100_000 + b"." + third,
        "1 MB": first + b"." + b"A" * 1_000_000 + b"." + third,
        "1 MB signed": own.sign(own_claims("reporting", now, pad="x" * 750_000)).encode(),
        "6 KB signed": own.sign(own_claims("reporting", now, pad="x" * 4_500)).encode(),
    }.items()


def _broken(own: Signer, now: float) -> Iterator[tuple[str, bytes]]:
    """A good one in which one letter is another."""
    good, chance = own.sign(own_claims("reporting", now)), random.Random(7)
    for number in range(150):
        at = chance.randrange(len(good))
        letter = chance.choice([one for one in "AZaz09-_.~" if one != good[at]])
        yield f"broken {number}", f"{good[:at]}{letter}{good[at + 1 :]}".encode()
