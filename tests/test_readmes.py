"""The READMEs: short sentences, few numbers, narrow lines; and each command in them is one that there is."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from normdrop.metrics import METRICS

ROOT = Path(__file__).parents[1]
# Words that each may have, those of tables and commands too.
WORDS = {
    "README.md": 1000,
    "outputs/reference/README.md": 1000,
    "conf/README.md": 1000,
    "src/normdrop/README.md": 900,
    "scripts/README.md": 1500,
}
readmes = pytest.mark.parametrize("readme", list(WORDS))


def text_of(readme: str) -> str:
    return (ROOT / readme).read_text(encoding="utf-8")


def blocks(readme: str) -> Iterator[tuple[bool, list[str]]]:
    """Paragraphs, and whether each is code; comments are left out."""
    text = re.sub(r"<!--.*?-->", "", text_of(readme), flags=re.DOTALL)
    for number, part in enumerate(re.split(r"^```.*$", text, flags=re.MULTILINE)):
        for paragraph in re.split(r"\n\s*\n", part):
            lines = [line for line in paragraph.splitlines() if line.strip()]
            if lines:
                yield number % 2 == 1 or all(line.startswith("    ") for line in lines), lines


def prose(readme: str) -> Iterator[str]:
    """Paragraphs and list items of running text, without headings, tables, figures and where links lead."""
    for code, lines in blocks(readme):
        kept = [line for line in lines if not code and not re.match(r"\s*(\||#|!\[|-{3,}$)", line)]
        for item in re.split(r"^\s*(?:[-*]|\d+\.) ", "\n".join(kept), flags=re.MULTILINE):
            plain = re.sub(r"\]\([^)]*\)", "]", item)
            if plain.strip():
                yield plain


def commands(readme: str) -> Iterator[str]:
    """What a reader may type: lines of code blocks, and code within the text that begins with a program's name."""
    for code, lines in blocks(readme):
        typed = lines if code else re.findall(r"`([^`]+)`", " ".join(map(str.strip, lines)))
        whole = "\n".join(typed).replace("\\\n", " ").splitlines()
        for line in whole:
            line = line.strip().removeprefix("$ ")
            program = re.match(r"(\.venv/bin/)?(python scripts/|normdrop(-report)? )|scripts/\w", line)
            if program and not line.endswith("="):
                yield line


ALL = [(readme, command) for readme in WORDS for command in dict.fromkeys(commands(readme))]


@readmes
def test_a_sentence_has_at_most_thirty_words(readme):
    for paragraph in prose(readme):
        for sentence in re.split(r"(?<=[.!?])[)*_]*\s", re.sub(r"`[^`]*`", "code", paragraph)):
            assert len(sentence.split()) <= 30, sentence


@readmes
def test_a_line_has_at_most_120_columns(readme):
    wide = [line for line in text_of(readme).splitlines() if len(line) > 120 and not line.startswith(("|", "!["))]
    assert not wide


@readmes
def test_a_paragraph_has_at_most_twelve_numerals(readme):
    for paragraph in prose(readme):
        assert len(re.findall(r"\d[\d.,]*", re.sub(r"`[^`]*`", "", paragraph))) <= 12, paragraph


@readmes
def test_each_is_short(readme):
    assert len(text_of(readme).split()) <= WORDS[readme]
    assert readme != "README.md" or len(text_of(readme).encode()) <= 5000


@readmes
def test_what_a_link_leads_to_is_there(readme):
    folder = (ROOT / readme).parent
    for target in re.findall(r"\]\(([^)#\s]+)", text_of(readme)):
        assert target.startswith("http") or (folder / target).exists(), target


@pytest.mark.parametrize(("readme", "command"), ALL)
def test_each_command_is_one_that_there_is(readme, command, composed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the reader's own network stands
    network = "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(8), torch.nn.BatchNorm1d(8))"
    (tmp_path / "my_net.py").write_text(f"import torch\n\n\ndef make(shape, classes):\n    return {network}\n")
    program, *words = shlex.split(command.removeprefix(".venv/bin/").replace("…", ""), comments=True)
    if program == "python":
        program, *words = words
    if program.startswith("scripts/"):
        assert (ROOT / program).exists()
    if program == "scripts/ablate" and words and re.fullmatch(r"\w+", words[0]):
        first = [f"experiment={words[0]}"] if words[0] != "claims" else []
        words = [*first, *words[1:]]
    if program in ("normdrop", "scripts/ablate"):
        return composes(composed, [word for word in words if not word.startswith("-")])
    source = ROOT / ("src/normdrop/report/__main__.py" if program == "normdrop-report" else program)
    for option in re.findall(r"--[\w-]+", " ".join(words)):
        assert f'"{option}"' in source.read_text(encoding="utf-8") or option == "--fast"
    for path in words:
        assert not path.startswith("tests/") or (ROOT / path.split("::")[0]).exists()


def composes(composed: Callable[..., dict[str, Any]], words: list[str]) -> None:
    """The first configuration of a grid passes every check that needs no data."""
    first = []
    for override in OverridesParser.create().parse_overrides([word for word in words if "=" in word]):
        key, value = override.key_or_group, override.input_line or ""
        if key == "hydra/launcher":
            launcher = str(override.value())
            assert (ROOT / f"conf/hydra/launcher/{launcher}.yaml").exists() or launcher in ("submitit_local", "joblib")
        if not key.startswith("hydra"):
            swept = override.is_sweep_override()
            first.append(f"{key}={next(iter(override.sweep_string_iterator()))}" if swept else value)
    composed(*first)


def test_the_table_of_metrics_has_every_column_that_tensorboard_shows_and_its_tag():
    told = {}
    for columns, _, tags in re.findall(r"^\| (`\w+`.*) \| (.*) \| (`.*) \|$", text_of("src/normdrop/README.md"), re.M):
        told |= dict(zip(re.findall(r"`(\w+)`", columns), re.findall(r"`([\w/]+)`", tags), strict=True))
    shown = {name: metric.tag for name, metric in METRICS.items() if metric.tag}
    assert told == shown
