"""Keys: what may be one, which tokens it is for, and the vectors of the RFCs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa

from kernel.http.problems import TOKEN_ALGORITHM, TOKEN_KEY_UNKNOWN
from kernel.identity.errors import TokenError
from kernel.identity.jwks import parse_jwks
from kernel.identity.jws import decode_segment, parse
from kernel.identity.keys import Key, KeyConfigError, KeySet, algorithm, public_key, secret_key
from kernel.identity.mint import Signer
from kernel.identity.pem import generate_pair, load_public_keys
from tests.support.tokens import SECRET, private_pem, public_pem

# --- vectors -----------------------------------------------------------------------------------------------------

# RFC 7515 appendix A.1
HS256_KEY = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
HS256_TOKEN = (
    b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
    b".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    b".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)
# RFC 7515 appendix A.2, A.3, A.4, RFC 8037 appendix A.4
PUBLIC = {
    "RS256": {
        "kty": "RSA",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR"
        "T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS"
        "-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2et"
        "hFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "e": "AQAB",
    },
    "ES256": {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    },
    "ES512": {
        "kty": "EC",
        "crv": "P-521",
        "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
    },
    "EdDSA": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
}
TOKENS = {
    "RS256": b"eyJhbGciOiJSUzI1NiJ9"
    b".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    b".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CU"
    b"Ar7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO"
    b"--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN"
    b"_IoypGlUPQGe77Rw",
    "ES256": b"eyJhbGciOiJFUzI1NiJ9"
    b".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    b".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    "ES512": b"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA"
    b".AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2Y"
    b"BJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
    "EdDSA": b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    b".hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
}


@pytest.mark.parametrize("alg", sorted(TOKENS))
def test_rfc_vector_verifies_and_nothing_near_it_does(alg: str) -> None:
    (key,) = parse_jwks(json.dumps({"keys": [PUBLIC[alg]]}).encode())
    assert key.algorithm == alg
    compact = parse(TOKENS[alg])
    assert key.verify(compact.signed, compact.signature)
    assert not key.verify(compact.signed + b"A", compact.signature)
    assert not key.verify(compact.signed, compact.signature[:-1])
    assert not key.verify(compact.signed, compact.signature + b"\0")
    assert not key.verify(compact.signed, bytes((compact.signature[0] ^ 1,)) + compact.signature[1:])


def test_rfc7515_a1_hmac_verifies() -> None:
    implementation = algorithm("HS256")
    compact = parse(HS256_TOKEN)
    assert implementation.verify(compact.signed, decode_segment(HS256_KEY.encode()), compact.signature)


def test_rfc8037_a3_thumbprint_names_the_key() -> None:
    (key,) = parse_jwks(json.dumps({"keys": [PUBLIC["EdDSA"]]}).encode())
    assert key.digest == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert KeySet([key]).candidates("EdDSA", key.digest) == (key,)


# --- what may be a key -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "alg"),
    [("rsa", "ES256"), ("rsa", "EdDSA"), ("p256", "RS256"), ("p256", "ES384"), ("p384", "ES256"), ("p521", "ES384"),
     ("p256", "EdDSA"), ("ed25519", "RS256"), ("ed25519", "ES256"), ("ed448", "PS256")],
)  # fmt: skip
def test_key_of_another_type_or_curve_is_refused(name: str, alg: str) -> None:
    with pytest.raises(KeyConfigError, match="does not fit"):
        load_public_keys(public_pem(name), alg)


def test_rsa_key_below_2048_bits_is_refused() -> None:
    with pytest.raises(KeyConfigError, match="1024 bits"):
        load_public_keys(public_pem("rsa-1024"), "RS256")


@pytest.mark.parametrize("alg", ["none", "HS256", "RS1", "", "ES256K"])
def test_algorithm_that_takes_no_public_key_is_refused(alg: str) -> None:
    with pytest.raises(KeyConfigError):
        load_public_keys(public_pem(), alg)


@pytest.mark.parametrize("secret", [public_pem(), private_pem("p256"), "", json.dumps(PUBLIC["RS256"])])
def test_key_material_is_no_shared_secret(secret: str) -> None:
    with pytest.raises(KeyConfigError):
        secret_key(secret)
    with pytest.raises(KeyConfigError):
        Signer(secret, "HS256")


def test_dsa_key_is_refused() -> None:
    pem = dsa.generate_private_key(1024).public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    with pytest.raises(KeyConfigError, match="foreign"):
        load_public_keys(pem.decode(), "RS256")


def test_key_reveals_nothing_when_printed() -> None:
    assert SECRET not in repr(secret_key(SECRET))


# --- PEM ---------------------------------------------------------------------------------------------------------


def test_several_keys_in_one_text_are_named_by_their_kid_lines() -> None:
    text = f"kid: old\n{public_pem()}kid: new\n{public_pem('rsa-2')}"
    old, new = load_public_keys(text, "RS256")
    assert (old.kid, new.kid) == ("old", "new")
    keys = KeySet((old, new))
    assert keys.candidates("RS256", "new") == (new,)
    assert keys.candidates("RS256", None) == (old, new)


def test_line_feeds_may_be_escaped_as_in_an_env_file() -> None:
    (key,) = load_public_keys(public_pem().replace("\n", "\\n"), "RS256")
    assert key.algorithm == "RS256"


def test_files_may_be_named_with_or_without_a_kid(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text(public_pem())
    (tmp_path / "b.pem").write_text(public_pem("rsa-2"))
    one, two = load_public_keys("first=a.pem, b.pem", "RS256", tmp_path)
    assert (one.kid, two.kid) == ("first", None)
    (absolute,) = load_public_keys(str(tmp_path / "b.pem"), "RS256")
    assert absolute.digest == two.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (private_pem(), "private key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "decoded"),
        ("-----BEGIN PUBLIC KEY-----", "no PEM block"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "CERTIFICATE"),
        ("/does/not/exist.pem", "No such file"),
        ("", "regular file"),
        ("a\0b", "NUL"),
    ],
)
def test_unusable_text_is_refused_with_a_reason(text: str, message: str) -> None:
    with pytest.raises(KeyConfigError, match=message) as error:
        load_public_keys(text, "RS256")
    assert private_pem()[40:80] not in str(error.value)


def test_file_too_large_for_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 70_000)
    with pytest.raises(KeyConfigError, match="larger than 64KiB"):
        load_public_keys("big", "RS256", tmp_path)


def test_generated_pair_fits_together() -> None:
    private, public = generate_pair()
    (key,) = load_public_keys(public, "RS256")
    signer = Signer(private, "RS256")
    assert signer.kid == key.digest
    compact = parse(signer.sign({"a": 1}).encode())
    assert key.verify(compact.signed, compact.signature)


# --- choice ------------------------------------------------------------------------------------------------------


def rsa(name: str = "rsa", kid: str | None = None, alg: str = "RS256") -> Key:
    (key,) = load_public_keys(public_pem(name), alg)
    return public_key(alg, key._material, kid=kid)


def kind_of(keys: KeySet, alg: str, kid: str | None) -> object:
    with pytest.raises(TokenError) as error:
        keys.candidates(alg, kid)
    return error.value.kind


def test_named_key_is_for_its_name_and_an_unnamed_one_for_the_rest() -> None:
    named, unnamed = rsa(kid="a"), rsa("rsa-2")
    keys = KeySet((named, unnamed))
    assert keys.candidates("RS256", "a") == (named,)
    assert keys.candidates("RS256", "b") == (unnamed,)
    assert keys.candidates("RS256", None) == (named, unnamed)
    assert kind_of(KeySet((named,)), "RS256", "b") is TOKEN_KEY_UNKNOWN
    assert KeySet((named,)).candidates("RS256", None) == (named,)


def test_kid_of_a_key_does_not_open_it_to_another_algorithm() -> None:
    keys = KeySet((rsa(kid="a"), secret_key(SECRET)))
    (secret,) = keys.candidates("HS256", "a")
    assert secret.algorithm == "HS256"
    assert kind_of(keys, "PS256", "a") is TOKEN_ALGORITHM
    assert kind_of(KeySet((rsa(kid="a"),)), "HS256", "a") is TOKEN_ALGORITHM


def test_token_without_kid_costs_at_most_four_signatures() -> None:
    assert len(KeySet(rsa(kid=str(index)) for index in range(9)).candidates("RS256", None)) == 4
    assert len(KeySet(rsa(kid="a") for _ in range(9)).candidates("RS256", "a")) == 4


def test_services_keys_and_secrets_do_not_crowd_out_those_of_users() -> None:
    services = [
        key
        for name in "bcdef"
        for key in load_public_keys(f"kid: {name}\n{public_pem(f'rsa-{name}')}", "RS256", service=True)
    ]
    user = rsa()
    keys = KeySet((*services, user))
    assert user in keys.candidates("RS256", None)
    assert keys.candidates("RS256", "anything") == (user,)
    secrets = [secret_key(f"{SECRET}-{number}") for number in range(9)]
    assert len(KeySet(secrets).candidates("HS256", None)) == 9


def test_more_keys_without_a_name_than_are_tried_are_refused() -> None:
    text = "".join(public_pem(f"rsa-{name}") for name in "bcdef")
    with pytest.raises(KeyConfigError, match="5 keys have no kid"):
        load_public_keys(text, "RS256")


def test_unknown_kid_is_worth_a_fetch_only_where_a_source_may_bring_it() -> None:
    keys = KeySet((secret_key(SECRET),))
    assert kind_of(keys, "RS256", "a") is TOKEN_ALGORITHM
    keys.expect(None)
    assert kind_of(keys, "RS256", "a") is TOKEN_KEY_UNKNOWN
    assert kind_of(keys, "none", "a") is TOKEN_ALGORITHM
    assert kind_of(keys, "HS512", "a") is TOKEN_ALGORITHM


def test_listeners_hear_of_changes_only() -> None:
    keys = KeySet((rsa(),))
    heard: list[int] = []
    keys.on_change(lambda: heard.append(1))
    keys.replace("a", [rsa("rsa-2", "x")])
    keys.replace("a", [rsa("rsa-2", "x")])
    assert len(heard) == 1
    keys.replace("b", [rsa("rsa-3072", "y")])
    assert len(heard) == 2
    assert len(keys.trusted) == 3
    keys.replace("a", [])
    assert len(heard) == 3
    assert len(keys.trusted) == 2


def test_only_a_key_for_users_makes_remote_verification_needless() -> None:
    assert not KeySet((secret_key(SECRET),)).verifies_users
    assert KeySet((secret_key(SECRET, access=True),)).verifies_users
    assert KeySet((rsa(),)).verifies_users
