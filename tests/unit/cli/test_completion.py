"""What a shell completes: every command, action, option and value, from the parsers themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kernel.cli import COMMANDS, main
from kernel.cli.completion import SHELLS, nodes
from kernel.routing.catalog import TIERS


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def completed(line: str, capsys: pytest.CaptureFixture[str], directory: Path) -> set[str]:
    """What bash offers for the last word of `line`."""
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    call = (
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _gateway; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    told = subprocess.run(
        ["bash", "-u", "-c", f"{script('bash', capsys)}\n{call}"],
        capture_output=True, text=True, check=True, cwd=directory,
    )  # fmt: skip
    return set(told.stdout.split())


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("gateway ", {*COMMANDS, "--help", "-h", "--version"}),
        ("gateway co", {"completion"}),
        ("gateway check --s", {"--strict", "--schema"}),
        ("gateway check --strict --j", {"--json"}),
        ("gateway token ", {"mint", "inspect", "-h", "--help"}),
        ("gateway token mint --tier ", set(TIERS)),
        ("gateway token mint --tier starter --ro", {"--role"}),
        ("gateway token mint --role ", set()),
        ("gateway audit erase --file aud", {"audit.jsonl"}),
        ("gateway completion ", {*SHELLS, "-h", "--help"}),
        ("gateway explain ", {"-h", "--help", "--json"}),
        ("gateway nonsense", set()),
    ],
)
def test_bash_offers(
    line: str, offered: set[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "audit.jsonl").touch()
    assert completed(line, capsys, tmp_path) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_word_is_in_every_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    for node in nodes():
        for word in node.words:
            assert word.word in text
        for option in node.options:
            for name in option.names:
                assert (f"-l {name[2:]} " if shell == "fish" and name.startswith("--") else name) in text or (
                    shell == "fish" and f"-s {name[1:]} " in text
                )


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_sound_to_their_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    # No quote of a help text ends the shell's own.
    assert all(line.count("'") % 2 == 0 for line in text.splitlines())
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=text, text=True, check=False).returncode == 0


def test_an_unknown_shell_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "tcsh"])
    assert "bash" in capsys.readouterr().err
