"""The documentation: no dead link, no command or topic that there is not, no picture that is missing."""

from __future__ import annotations

import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

from detseg.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if not target.startswith(("http", "mailto:"))]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_names_of_the_reference_exist() -> None:
    """Modules of the reference, and classes and functions that the pages of the lecture link to."""
    names = {name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)}
    modules = {name: pkgutil.resolve_name(name) for name in names}
    assert len(modules) > 40
    assert [name for name, module in modules.items() if not inspect.ismodule(module)] == []
    linked = {name for page in PAGES for name in re.findall(r"\]\[(detseg[\w.]+)\]", page.read_text())}
    assert len(linked) > 30
    for name in linked:
        assert pkgutil.resolve_name(name).__doc__
        assert name.rpartition(".")[0] in names  # its page has an anchor of this name


def test_commands_of_the_pages_exist() -> None:
    used = {name for page in PAGES for name in re.findall(r"^ {4}detseg ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert used <= COMMANDS.keys()
    topics = {name for page in PAGES for name in re.findall(r"detseg draw ([a-z-]+)", page.read_text())}
    from detseg.cli.draw import TOPICS

    assert topics == TOPICS.keys()


def test_every_page_is_in_the_navigation() -> None:
    """Within two clicks: a section, then a page."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = []
    for entry in settings["nav"]:
        (content,) = entry.values()
        pages += [content] if isinstance(content, str) else content
    assert sorted(pages) == [page.relative_to(ROOT / "docs").as_posix() for page in PAGES]


def test_every_public_name_of_the_reference_has_a_docstring() -> None:
    """Methods that replace one of a base may leave it to that one."""
    names = {name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)}
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
