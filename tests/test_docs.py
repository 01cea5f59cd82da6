"""Every code block of README.md and docs/ is run: what a reader would type works as it stands, but
for the addresses.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.markdown import Block, blocks
from tests.support.processes import ROOT, Process
from tests.support.service import Service

PAGES = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))) if path.exists()
]

#: How a block says that it isn't run, and why: ```bash no-run: it goes on until Ctrl-C;
#: tests/acceptance/test_demo.py runs it
NOT_RUN = "no-run: "

#: How a block says that it is a file of its own, which the page's other blocks may import:
#: ```python file: jobs.py
FILE = "file: "

#: The addresses that the documents use; the fixtures' stand in their place.
WEB = ("127.0.0.1:8000", "localhost:8000")
REDIS = (
    "redis://127.0.0.1:6379/0",
    "redis://localhost:6379/0",
    "redis://127.0.0.1:6379",
    "redis://localhost:6379",
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def runnable(page: Path, language: str) -> list[Block]:
    return [
        block
        for block in blocks(page)
        if block.language == language and not block.info.startswith((NOT_RUN, FILE))
    ]


def script(page: Path, language: str, service: Service, redis_url: str) -> str:
    """The page's blocks of one language as one program, each line at its number on the page, for
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
def test_python(page: Path, service: Service, redis_url: str, tmp_path: Path) -> None:
    """The page's Python blocks run in order, as one program, against a real Valkey and the real
    service, with its files.
    """
    for name, text in files(page).items():
        (tmp_path / name).write_text(addressed(text, service, redis_url))
    imports = "".join(f"import {Path(name).stem}; " for name in files(page))
    file = tmp_path / page.name
    file.write_text(imports + script(page, "python", service, redis_url))
    # Not the service's environment: its addresses would beat the page's own, and its worker end
    # what the page publishes.
    env = {"PYTHONPATH": str(tmp_path)}
    with Process(
        [sys.executable, "-m", "tests.support.snippet", str(file)], env=env, name=name_of(page)
    ) as run:
        assert run.wait(within=180) == 0, run.log()


@pytest.mark.parametrize("page", pages_with("bash"), ids=name_of)
def test_bash(page: Path, service: Service, redis_url: str, tmp_path: Path) -> None:
    """The page's shell blocks run in order, in one shell that stops at the first failure."""
    file = tmp_path / page.name
    file.write_text(script(page, "bash", service, redis_url))
    # The commands of the environment that runs the tests, activated or not.
    env = service.env | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    }
    with Process(["bash", "-euo", "pipefail", str(file)], env=env, name=name_of(page)) as run:
        assert run.wait(within=180) == 0, run.log()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_json(page: Path) -> None:
    """Every JSON block is JSON."""
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.code)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_not_run_says_why(page: Path) -> None:
    """A Python or shell block is run, or gives its reason on the line of its fence; there is no
    third way.
    """
    for block in blocks(page):
        where = f"{name_of(page)}:{block.line}"
        assert block.language, f"{where}: a block names its language (text, where it is none)"
        assert block.language not in {"py", "python3", "sh", "shell"}, (
            f"{where}: say python or bash, so that it is run"
        )
        if block.language in {"python", "bash"} and block.info and not block.info.startswith(FILE):
            assert block.info.startswith(NOT_RUN), (
                f"{where}: {block.info!r} is neither nothing nor '{NOT_RUN}<reason>'"
            )
            assert len(block.info) > len(NOT_RUN) + 10, f"{where}: the reason is missing"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """A link or a picture inside the repository names a file that is there."""
    for target in links(page):
        assert (page.parent / target).exists(), f"{name_of(page)} points to {target}"


def test_the_reference_says_what_the_code_says() -> None:
    """docs/reference.md is what `make reference` makes of the docstrings."""
    with Process(
        [sys.executable, str(ROOT / "tools" / "reference.py"), "--check"], name="reference"
    ) as run:
        assert run.wait(within=180) == 0, run.log()


def test_every_page_is_found() -> None:
    """A reader who begins at the README comes to every page of docs/ by links."""
    found, front = set[Path](), [ROOT / "README.md"]
    while front:
        page = front.pop()
        found.add(page)
        targets = {(page.parent / target).resolve() for target in links(page)}
        front += [
            target
            for target in targets
            if target.suffix == ".md" and target.exists() and target not in found
        ]
    assert not [name_of(page) for page in PAGES if page not in found]


def links(page: Path) -> list[str]:
    """The relative targets of a page's links, without their anchors; what stands in code isn't one."""
    text = page.read_text()
    for block in blocks(page):
        text = text.replace(block.code, "")
    found = (
        part.split(")")[0].split()[0].split("#")[0]
        for part in text.split("](")[1:]
        if part.split(")")[0].strip()
    )
    return [
        target
        for target in found
        if target and "://" not in target and not target.startswith("mailto:")
    ]
