"""The `.env` parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.config.dotenv import parse

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def found(text: str) -> dict[str, str]:
    values, errors = parse(text)
    assert errors == []
    return values


@given(
    st.dictionaries(NAMES, VALUES, max_size=5),
    st.sampled_from(["", "export "]),
    st.sampled_from(["\n", "\n\n# x\n"]),
)
def test_double_quoted_values_come_back_as_they_were(
    values: dict[str, str], prefix: str, between: str
) -> None:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t", "$": r"\$"})
    lines = [f'{prefix}{name}="{value.translate(escapes)}"' for name, value in values.items()]
    assert found(between.join(lines)) == values


@given(
    st.dictionaries(NAMES, VALUES.filter(lambda value: "'" not in value and "\r" not in value), max_size=5)
)
def test_single_quoted_values_are_literal(values: dict[str, str]) -> None:
    assert found("\n".join(f"{name}='{value}' # why" for name, value in values.items())) == values


@given(st.text(max_size=200))
def test_no_text_makes_it_fail(text: str) -> None:
    values, errors = parse(text)
    assert all(name.isidentifier() for name in values)
    assert all(error.variable.startswith(".env line ") for error in errors)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=plain", "plain"),
        ("NAME = spaced out  ", "spaced out"),
        ("  export\tNAME=x", "x"),
        ("NAME=a#b", "a#b"),
        ("NAME=a #b", "a"),
        ("NAME=#b", ""),
        ("NAME=", ""),
        ("NAME=it's", "it's"),
        ("NAME='a #b'", "a #b"),
        ("NAME=a=b=c", "a=b=c"),
        ("NAME=$HOME/x", "$HOME/x"),
        (r"NAME='a\nb'", r"a\nb"),
        (r'NAME="a\nb\q"', "a\nb\\q"),
        ("NAME=first\nNAME=last", "last"),
        ("NAME=x\r\n", "x"),
        ('NAME="x"', "x"),
    ],
)
def test_a_line_reads(line: str, value: str) -> None:
    assert found(line) == {"NAME": value}


def test_pem_text_spans_lines_in_quotes() -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n"
    for quote in "'\"":
        assert found(f"A=1\nKEY={quote}{pem}{quote}\nB=2") == {"A": "1", "KEY": pem, "B": "2"}


def test_every_bad_line_is_reported_by_number_and_without_its_text() -> None:
    values, errors = parse("GOOD=1\nhunter2\nA='b' c\n\n2X=1\nALSO=2\nOPEN='never\n")
    assert values == {"GOOD": "1", "ALSO": "2"}
    assert [(error.variable, error.problem) for error in errors] == [
        (".env line 2", "is not NAME=value (quote a value that spans lines)"),
        (".env line 3", "has text after the closing quote"),
        (".env line 5", "is not NAME=value (quote a value that spans lines)"),
        (".env line 7", "has a quote that is never closed"),
    ]
    assert "hunter2" not in str(errors)
