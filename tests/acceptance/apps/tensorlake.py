"""The functions of the Tensorlake document as Celery tasks, unchanged except for the import."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import Celery

import headway
from tests.support.markdown import blocks
from tests.support.processes import ROOT

PAGE = ROOT / "tests" / "data" / "seeds" / "tensorlake-progress-updates.md"
IMPORT = "from tensorlake.applications import RequestContext, function\n"


def sources() -> list[str]:
    """The document's Python blocks that define a function."""
    return [block.code.replace(IMPORT, "") for block in blocks(PAGE) if "@function()" in block.code]


def make_app(url: str) -> Celery:
    """An app with every function of the document as a task of the same name."""
    app = Celery("tensorlake", broker=url, backend=url, set_as_current=False)
    app.conf.update(task_default_queue="tensorlake")
    headway.install(app)

    def function() -> Callable[[Callable[..., Any]], Any]:
        return lambda body: app.task(name=body.__name__)(body)

    def process(item: object) -> None:
        if item == "bad":
            raise ValueError(item)

    names = {
        "RequestContext": headway.RequestContext,
        "function": function,
        "process": process,
        "fetch_data": list,
        "process_data": list,
        "store_results": list,
    }
    for source in sources():
        exec(compile(source, str(PAGE), "exec"), names)
    return app


if "TENSORLAKE_URL" in os.environ:
    app = make_app(os.environ["TENSORLAKE_URL"])
