"""The documentation: no dead link, no command or topic that there is not, no picture that is missing."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from detseg.cli import COMMANDS
from detseg.errors import DetsegError

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def sections(page: Path) -> dict[str, str]:
    """Split a page at its headings; the keys are their anchors on the site."""
    parts = re.split(r"^#+ ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    titles = [re.sub(r"[^\w\s-]", "", part.partition("\n")[0]).strip().lower() for part in parts]
    return {re.sub(r"[\s-]+", "-", title): part for title, part in zip(titles, parts, strict=True)}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        if not target.startswith(("http", "mailto:")):
            file = page.parent / name if name else page
            assert file.exists(), target
            assert not anchor or anchor in sections(file), target


def _found(pattern: str) -> set[str]:
    """Find all matches of a pattern in the pages."""
    texts = (page.read_text(encoding="utf-8") for page in PAGES)
    return {name for text in texts for name in re.findall(pattern, text, re.MULTILINE)}


def test_names_of_the_reference_exist() -> None:
    """Modules of the reference, and classes and functions that the pages of the lecture link to."""
    names = _found(r"^::: (\S+)$")
    modules = {name: pkgutil.resolve_name(name) for name in names}
    assert len(modules) > 40
    assert [name for name, module in modules.items() if not inspect.ismodule(module)] == []
    linked = _found(r"\]\[(detseg[\w.]+)\]")
    assert len(linked) > 30
    for name in linked:
        assert pkgutil.resolve_name(name).__doc__
        assert name.rpartition(".")[0] in names  # its page has an anchor of this name


def test_commands_of_the_pages_exist() -> None:
    assert _found(r"^ {4}detseg ([a-z-]+)") <= COMMANDS.keys()
    topics = _found(r"detseg draw ([a-z-]+)")
    from detseg.cli.draw import TOPICS

    assert topics == TOPICS.keys()


def command_lines() -> Iterator[list[str]]:
    """Yield the words after ``detseg`` of every command line of the pages and of ``make pictures``."""
    pictures = runpy.run_path(str(ROOT / "tools" / "pictures.py"))
    yield from pictures["PICTURES"].values()
    yield from (arguments for _, arguments in pictures["FOLDERS"].values())
    yield from (["train", "--config", *arguments] for arguments in pictures["TRAININGS"].values())
    for page in [*PAGES, ROOT / "README.md"]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^(?: {4})?(?:\$ )?detseg ([a-z-]+ .*)$", text, re.MULTILINE):
            words = shlex.split(line.replace("...", ""), comments=True)
            if words[0] in COMMANDS:
                yield words


class Parsed(Exception):
    """Carries the options that a parser knows."""


def known_options(words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str] | None:
    """List the options of the parser that a command line reaches; None if it needs files that are not here."""

    def stop(parser: ArgumentParser, *_: object, **__: object) -> None:
        raise Parsed([*parser._option_string_actions])

    monkeypatch.setattr(ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(ArgumentParser, "parse_known_args", stop)
    name, *arguments = words
    try:
        importlib.import_module(f"detseg.cli.{name.replace('-', '_')}").run(arguments)
    except Parsed as parsed:
        return list(parsed.args[0])
    except (DetsegError, SystemExit):
        return None
    return []  # prints its topics, as `detseg draw` does


def test_options_of_the_pages_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Options with a dot belong to the class that the option before the dot builds."""
    monkeypatch.chdir(tmp_path)
    options: dict[tuple[str, ...], list[str]] = {}  # by command, and topic of `detseg draw`
    checked = 0
    for words in command_lines():
        given = {word.split("=")[0].split(".")[0] for word in words if word.startswith("--")}
        command = tuple(words[: 1 + (words[0] == "draw")])
        if command not in options or not given <= {one.split(".")[0] for one in options[command]}:
            with monkeypatch.context() as patch:
                known = known_options(words, patch)
            if known is None:
                continue
            options[command] = known
        assert given <= {one.split(".")[0] for one in options[command]}, " ".join(words)
        checked += 1
    assert checked > 80


def test_every_page_is_in_the_navigation() -> None:
    """Within two clicks: a section, then a page."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = []
    for entry in settings["nav"]:
        (content,) = entry.values()
        pages += [content] if isinstance(content, str) else content
    assert sorted(pages) == [page.relative_to(ROOT / "docs").as_posix() for page in PAGES]


def test_every_public_name_of_the_reference_has_a_docstring() -> None:
    """Methods that replace one of a base may leave it to that one."""
    names = _found(r"^::: (\S+)$")
    missing = []
    for name in sorted(names):
        module = pkgutil.resolve_name(name)
        for public, value in vars(module).items():
            if public.startswith("_") or getattr(value, "__module__", "") != name:
                continue
            members = vars(value) if inspect.isclass(value) else {}
            methods = [key for key, member in members.items() if inspect.isfunction(member) and not key.startswith("_")]
            documented = {public: value, **{f"{public}.{key}": getattr(value, key) for key in methods}}
            missing += [f"{name}.{key}" for key, one in documented.items() if callable(one) and not inspect.getdoc(one)]
    assert missing == []


def test_model_zoo_lists_every_configuration_as_it_is() -> None:
    """The page is that of the tool, and the section that a measured figure links to has its digits."""
    zoo = runpy.run_path(str(ROOT / "tools" / "model_zoo.py"))
    page = (ROOT / "docs" / "model_zoo.md").read_text(encoding="utf-8")
    assert page == zoo["page"]()
    measured = sections(ROOT / "docs" / "benchmarks.md")
    for section, text in zoo["MEASURED"].values():
        for number in re.findall(r"\d+\.\d", text):
            assert number in measured[section] or f".{number.replace('.', '')}" in measured[section], (section, number)
