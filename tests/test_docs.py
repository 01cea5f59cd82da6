"""The documents are true: their code blocks run as a reader would type them (only the addresses
change), and their links lead somewhere.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import headway
from tests.support.markdown import Block, blocks
from tests.support.processes import ROOT, Process
from tests.support.service import Service

README = ROOT / "README.md"
DOCS = ROOT / "docs"
#: The installed package: the folder of the checkout, or that of the wheel.
PACKAGE = Path(headway.__file__).parent
PAGES = [README, *sorted(set(ROOT.glob("*.md")) - {README}), *sorted(DOCS.glob("**/*.md"))]

#: Pages for people who change Headway.
INTERNALS = [ROOT / "CONTRIBUTING.md", DOCS / "architecture.md", *sorted(DOCS.glob("decisions/*"))]

#: Absolute addresses of this repository's files: of pages, and of pictures. The README uses them
#: because a package index shows it without the files beside it. docs/ uses them for files outside
#: of docs/, which the site does not have.
REPOSITORY = (
    "https://github.com/headway-progress/headway/blob/main/",
    "https://raw.githubusercontent.com/headway-progress/headway/main/",
)

#: Marks a block that is not run, with the reason: ```bash no-run: it runs until Ctrl-C;
#: tests/acceptance/test_demo.py runs it
NOT_RUN = "no-run: "

#: Marks a block that is a file of its own, which the page's other blocks may import:
#: ```python file: jobs.py
FILE = "file: "

#: The addresses in the documents; the tests replace them by those of the fixtures.
WEB = ("127.0.0.1:8000", "localhost:8000")
REDIS = (
    "redis://127.0.0.1:6379/0",
    "redis://localhost:6379/0",
    "redis://127.0.0.1:6379",
    "redis://localhost:6379",
)

#: A reference to a fact, in code or in a document.
FACT = re.compile(r"\b(celery-facts|web-facts)(?:\.md)?#([A-Za-z0-9-]*[A-Za-z0-9])\b(?!-)")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def runnable(page: Path, language: str) -> list[Block]:
    return [
        block
        for block in blocks(page)
        if block.language == language and not block.info.startswith((NOT_RUN, FILE))
    ]


def script(page: Path, language: str, service: Service, redis_url: str) -> str:
    """The page's blocks of one language as one program. Each line keeps its number on the page, for
    tracebacks.
    """
    lines: list[str] = []
    for block in runnable(page, language):
        lines += [""] * (block.line - 1 - len(lines))
        lines += block.code.splitlines()
    return addressed("\n".join(lines) + "\n", service, redis_url)


def addressed(text: str, service: Service, redis_url: str) -> str:
    """The text, with the fixtures' addresses."""
    for address in WEB:
        text = text.replace(address, urlsplit(service.url).netloc)
    for address in REDIS:
        text = text.replace(address, redis_url)
    return text


def files(page: Path) -> dict[str, str]:
    """The page's files: name -> text."""
    return {
        block.info.removeprefix(FILE): block.code
        for block in blocks(page)
        if block.info.startswith(FILE)
    }


def pages_with(language: str) -> list[Path]:
    return [
        page for page in PAGES if runnable(page, language) or (language == "python" and files(page))
    ]


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_python_blocks_run_in_order_as_one_program(
    page: Path, service: Service, redis_url: str, tmp_path: Path
) -> None:
    """The page's Python blocks run as one program, with its files and real servers."""
    for name, text in files(page).items():
        (tmp_path / name).write_text(addressed(text, service, redis_url))
    imports = "".join(f"import {Path(name).stem}; " for name in files(page))
    file = tmp_path / page.name
    file.write_text(imports + script(page, "python", service, redis_url))
    # Not the environment of the service: its addresses would override those of the page, and its
    # worker would run what the page publishes.
    env = {"PYTHONPATH": str(tmp_path)}
    with Process(
        [sys.executable, "-m", "tests.support.snippet", str(file)], env=env, name=name_of(page)
    ) as run:
        assert run.wait(within=180) == 0, run.log()


@pytest.mark.parametrize("page", pages_with("bash"), ids=name_of)
def test_bash_blocks_run_in_order_in_one_shell(
    page: Path, service: Service, redis_url: str, tmp_path: Path
) -> None:
    """The page's shell blocks run in one shell, which stops at the first failure."""
    file = tmp_path / page.name
    file.write_text(script(page, "bash", service, redis_url))
    # The commands of the environment that runs the tests, whether it is activated or not.
    env = service.env | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    }
    with Process(["bash", "-euo", "pipefail", str(file)], env=env, name=name_of(page)) as run:
        assert run.wait(within=180) == 0, run.log()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_json_blocks_are_json(page: Path) -> None:
    """Every JSON block can be parsed."""
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.code)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_that_are_not_run_give_a_reason(page: Path) -> None:
    """A Python or shell block is run, or gives a reason on the line of its fence."""
    for block in blocks(page):
        where = f"{name_of(page)}:{block.line}"
        assert block.language, f"{where}: name the language of the block (text if it has none)"
        assert block.language not in {"py", "python3", "sh", "shell"}, (
            f"{where}: write python or bash, so that the block is run"
        )
        if block.language in {"python", "bash"} and block.info and not block.info.startswith(FILE):
            assert block.info.startswith(NOT_RUN), (
                f"{where}: {block.info!r} is neither empty nor '{NOT_RUN}<reason>'"
            )
            assert len(block.info) > len(NOT_RUN) + 10, f"{where}: the reason is missing"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """A link or a picture inside the repository names a file that exists, and a heading in it."""
    for target, anchor in links(page):
        assert target.exists(), f"{name_of(page)} points to {target}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name_of(page)} points to {target}#{anchor}"


def test_readme_works_on_a_package_index() -> None:
    """The README has no relative link: a package index shows it without the repository."""
    relative = [target for target in targets(README) if "://" not in target]
    assert not relative


def test_docs_link_inside_of_docs_only() -> None:
    """No page of docs/ has a relative link out of docs/, where the site has no files."""
    outside = [
        (name_of(page), target)
        for page in DOCS.glob("**/*.md")
        for target in targets(page)
        if "://" not in target and not (page.parent / target).resolve().is_relative_to(DOCS)
    ]
    assert not outside


def test_every_named_fact_has_an_entry() -> None:
    """Every fact that a comment or a page names is a heading of a facts page."""
    known = {name: anchors(DOCS / f"{name}.md") for name in ("celery-facts", "web-facts")}
    missing = [
        (name_of(path), match[0])
        for folder in ("headway", "app", "tasks", "web", "tests", "benchmarks", "tools", "docs")
        for path in (ROOT / folder).glob("**/*")
        if path.suffix in {".py", ".lua", ".js", ".md"}
        for match in FACT.finditer(path.read_text())
        if match[2] not in known[match[1]]
    ]
    assert not missing


@pytest.mark.parametrize("page", INTERNALS, ids=name_of)
def test_internal_pages_name_files_that_exist(page: Path) -> None:
    """A file that a page about the code names exists, in the package or in the repository."""
    named = set(re.findall(r"`([\w.-]+/[\w./-]*\w\.(?:py|lua|md|ts|jsonl|yml))`", page.read_text()))
    missing = [
        name
        for name in sorted(named)
        if not any((root / name).exists() for root in (PACKAGE, PACKAGE.parent, ROOT))
    ]
    assert not missing


def test_reference_matches_the_docstrings() -> None:
    """docs/reference.md is what `make reference` makes of the docstrings."""
    with Process(
        [sys.executable, str(ROOT / "tools" / "reference.py"), "--check"], name="reference"
    ) as run:
        assert run.wait(within=180) == 0, run.log()


def test_readme_leads_to_every_page() -> None:
    """A reader who starts at the README reaches every page by links."""
    found, front = set[Path](), [README]
    while front:
        page = front.pop()
        found.add(page)
        front += [
            target
            for target, _ in links(page)
            if target.suffix == ".md" and target.exists() and target not in found
        ]
    assert not [name_of(page) for page in PAGES if page not in found]


def test_site_has_every_page() -> None:
    """The navigation in mkdocs.yml names every page of docs/, and no other."""
    named = re.findall(r"\b[\w/-]+\.md\b", (ROOT / "mkdocs.yml").read_text())
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.glob("**/*.md")}
    assert sorted(named) == sorted(pages)


def links(page: Path) -> list[tuple[Path, str]]:
    """The links of a page into this repository: the file, and the anchor or an empty string."""
    found = []
    for target in targets(page):
        for address in REPOSITORY:
            if target.startswith(address):
                base, inside = ROOT, target.removeprefix(address)
                break
        else:
            if "://" in target:
                continue
            base, inside = page.parent, target
        path, _, anchor = inside.partition("#")
        found.append(((base / path).resolve() if path else page, anchor))
    return found


def targets(page: Path) -> list[str]:
    """The targets of a page's links and pictures. What stands in code is no link."""
    text = page.read_text()
    for block in blocks(page):
        text = text.replace(block.code, "")
    found = (part.split(")")[0].split() for part in text.split("](")[1:])
    return [parts[0] for parts in found if parts and not parts[0].startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a forge and mkdocs make them."""
    titles = re.findall(r"^#{1,6}\s+(.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"\s", "-", title) for title in plain}
