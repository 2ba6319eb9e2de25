"""What a capture holds instead of secrets."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.capture.redaction import MARK, Redactor, secret_name

KEY = b"k" * 32
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
WORD = "correct-horse-battery-9"


def redactor() -> Redactor:
    return Redactor(KEY)


def test_equal_secrets_stay_equal_within_a_key_and_only_there() -> None:
    assert redactor().mark(WORD) == redactor().mark(WORD)
    assert redactor().mark(WORD) != redactor().mark(WORD + "x")
    assert redactor().mark(WORD) != Redactor(b"x" * 32).mark(WORD)
    assert MARK.fullmatch(redactor().mark(WORD))
    assert redactor().mark(redactor().mark(WORD)) == redactor().mark(WORD)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("authorization", f"Bearer {WORD}", f"Bearer {redactor().mark(WORD)}"),
        ("authorization", WORD, redactor().mark(WORD)),
        (
            "cookie",
            f"sid={WORD}; theme=dark",
            f"sid={redactor().mark(WORD)}; theme={redactor().mark('dark')}",
        ),
        ("set-cookie", f"sid={WORD}; Path=/; HttpOnly", f"sid={redactor().mark(WORD)}; Path=/; HttpOnly"),
        ("x-api-key", WORD, redactor().mark(WORD)),
        ("cookie", WORD, redactor().mark(WORD)),
        ("cookie", f"a={WORD}=;{WORD}", f"a={redactor().mark(WORD + '=')};{redactor().mark(WORD)}"),
        ("x-refresh-token", WORD, redactor().mark(WORD)),
        ("idempotency-key", WORD, redactor().mark(WORD)),
        ("location", f"/next?token={WORD}&page=2", f"/next?token={redactor().mark(WORD)}&page=2"),
        ("referer", f"https://user:{WORD}@host/", f"https://user:{redactor().mark(WORD)}@host/"),
        ("x-anything", f"Bearer {WORD}", f"Bearer {redactor().mark(WORD)}"),
        ("access-control-allow-credentials", "true", "true"),
        ("content-type", "application/json; charset=utf-8", "application/json; charset=utf-8"),
        ("x-ratelimit-limit", "300", "300"),
    ],
)
def test_headers(name: str, value: str, expected: str) -> None:
    assert redactor().header(name, value) == expected


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Amz-Security-Token",
        "AWSAccessKeyId",
        "Signature",
        "sig",
        "X-Goog-Signature",
        "api_key",
        "ticket",
        "password",
        "%74oken",
        "client_secret",
    ],
)
def test_secrets_in_queries(name: str) -> None:
    cleaned = redactor().query(f"page=2&{name}={WORD}&sort=name")
    assert cleaned == f"page=2&{name}={redactor().mark(WORD)}&sort=name"
    assert redactor().query(f"sort={JWT}") != f"sort={JWT}"


NAMES = """
Authorization X-Auth cookie Set-Cookie TOKEN client_secret passwd pwd api-key apiKey private_key credentials ticket sessionId
jwt X-CSRF-Token xsrf sec-websocket-protocol sig auth pin cvv cvc2 otp iban AWSAccessKeyId cardNumber passcode passphrase
"""


@pytest.mark.parametrize("name", NAMES.split())
def test_a_secret_s_name_is_never_overlooked(name: str) -> None:
    """The quick look at a whole text knows every name that the slow one does."""
    assert secret_name(name)
    assert WORD not in redactor().json(f'{{"{name}": "{WORD}"}}')
    assert WORD not in redactor().query(f"{name}={WORD}")
    assert WORD not in redactor().text(f"{name}={WORD}")


def test_a_query_without_secrets_stays_as_it_was() -> None:
    query = "q=a%20b+c&&x&filter[price]=1;2&pan=gallego&sigma=3"
    assert redactor().query(query) == query


@pytest.mark.parametrize(
    "name", ["pan", "name", "pinned", "signal", "design", "author", "spinach", "price_eur"]
)
def test_names_that_only_look_like_a_secret_s(name: str) -> None:
    assert not secret_name(name)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f'{{"user": "ana", "password": "{WORD}"}}', '"user": "ana"'),
        (f'{{"a": [1, {{"access_token": "{WORD}"}}, 2.50]}}', "2.50"),
        (f'{{"secret": {{"deep": ["{WORD}", 7]}}, "n": 1e400}}', "1e400"),
        (f'{{"pass\\u0077ord": "{WORD}", "ok": true}}', '"ok": true'),
        (f'{{"note": "call with token={WORD} please", "x": null}}', "please"),
        (f'{{"inner": "{{\\"password\\":\\"{WORD}\\"}}"}}', "inner"),
        (f'{{"x": "{JWT}"}}', '"x"'),
        (f'[{{"name": "password", "value": "{WORD}"}}, {{"name": "user", "value": "ana"}}]', '"ana"'),
        (f'{{"key": "api_key", "n": {{"value": ["{WORD}"]}}}}', "api_key"),
        (f'{{"query": "mutation {{ login(name: \\"ana\\", password: \\"{WORD}\\") }}"}}', "ana"),
        (f"{{'password': '{WORD}'}}", "password"),
        (f'{{"token": "{WORD}', "token"),
        (f'[{{"id": 1}}, {{"pin": "{WORD}"', '"id": 1'),
        (f'{{"a": 1}}\n{{"api_key": "{WORD}"}}\n', '"a": 1'),
    ],
)
def test_json_whole_and_cut_off(text: str, kept: str) -> None:
    cleaned = redactor().json(text)
    assert WORD not in cleaned
    assert JWT not in cleaned
    assert MARK.search(cleaned)
    assert kept in cleaned


def test_json_without_secrets_stays_as_it_was_written() -> None:
    text = (
        '{ "price" : 2.50,\n "big": 123456789012345678901234567890, "design": "\\u00e9", "ok": [true, null] }'
    )
    assert redactor().json(text) == text


def test_numbers_below_a_secret_s_name_are_secrets_and_flags_are_not() -> None:
    cleaned = json.loads(redactor().json('{"pin": 4711, "password": null, "token": true, "otp": ""}'))
    assert MARK.fullmatch(cleaned["pin"])
    assert cleaned == {"pin": cleaned["pin"], "password": None, "token": True, "otp": ""}


SECRET_NAMES = st.sampled_from(["password", "token", "apiKey", "client_secret", "refresh_token", "cookie"])
PLAIN_NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=6).filter(
    lambda name: not secret_name(name)
)
SCALARS = st.one_of(st.integers(), st.booleans(), st.none(), st.text(max_size=12))


def holding(secret: str) -> st.SearchStrategy[Any]:
    """Documents with `secret` below a secret's name, at any depth."""
    held = st.builds(
        lambda name, value: {name: value}, SECRET_NAMES, st.sampled_from([secret, [secret], {"v": secret}])
    )
    return st.recursive(
        held,
        lambda inner: st.one_of(
            st.builds(
                lambda before, name, value: {**before, name: value},
                st.dictionaries(PLAIN_NAMES, SCALARS),
                PLAIN_NAMES,
                inner,
            ),
            st.builds(lambda before, value: [*before, value], st.lists(SCALARS, max_size=3), inner),
        ),
        max_leaves=4,
    )


@given(st.data())
def test_no_document_and_no_part_of_one_gives_a_secret_away(data: st.DataObject) -> None:
    secret = data.draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)) + WORD
    document = data.draw(holding(secret))
    text = json.dumps(
        document, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 1]))
    )
    cut = data.draw(st.integers(0, len(text)))
    whole, part = redactor().json(text), redactor().json(text[:cut])
    assert WORD not in whole
    assert WORD not in part
    assert WORD[:-1] not in part
    json.loads(whole)


@given(
    st.recursive(
        SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=8
    )
)
def test_every_document_stays_one(document: Any) -> None:
    json.loads(redactor().json(json.dumps(document)))


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    clean = redactor()
    for take in (clean.json, clean.text, clean.query, clean.xml):
        take(text)
    clean.header("cookie", text)


def test_elements_and_lines_of_a_secret_s_name() -> None:
    assert WORD not in redactor().xml(f'<a><user>x</user><Password kind="p">{WORD}</Password></a>')
    assert WORD not in redactor().xml(f"<a><token>{WORD}")
    assert "correcthorse" not in redactor().text("user: ana\npassword: correcthorse\n")
    assert "correcthorse" not in redactor().text('login(password: "correcthorse", name: "ana")')
    assert redactor().text("token: missing, please log in") == "token: missing, please log in"


LONG = (
    *("token" + text * 10**5 for text in ("a", "a ", "<a", " ", "eyJ", "://")),
    *(
        text * 10**5
        for text in ('token"', "token: a ", "bearer ", '{"token":', "token\\u", "token=", "token&", "token\\")
    ),
    "token<" + "a" * 10**5,
    "-----BEGIN " * 10**4 + "token",
)


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:12])
def test_nobody_can_make_it_take_long(text: str) -> None:
    """Each takes some milliseconds; what is not linear would take a minute and more."""
    clean = redactor()
    for take in (clean.text, clean.json, clean.query, clean.xml):
        take(text)
    clean.header("cookie", text)


def test_many_cookies_are_redacted_and_few_looked_for() -> None:
    clean = redactor()
    cleaned = clean.header("cookie", "; ".join(f"c{n}={WORD}{n}" for n in range(3000)))
    assert WORD not in cleaned
    assert len(clean._cookies) <= 33


def test_a_cookie_that_holds_the_tenant_does_not_take_it_from_the_path() -> None:
    clean = redactor()
    clean.header("cookie", f"tenant={WORD}")
    assert clean.everywhere(f"/tenants/{WORD}", cookies=False) == f"/tenants/{WORD}"
    assert WORD not in clean.everywhere(f"you are {WORD}")


def test_what_headers_held_is_found_elsewhere() -> None:
    clean = redactor()
    clean.header("x-api-key", f"{WORD}/+")
    assert WORD not in clean.everywhere(f"you sent {WORD}/+ and {WORD}%2F%2B")
