"""Keeps the registry current while serving: an artifact folder dropped in serves at once.

The kernel's notices (watchfiles) say which sub-folders to read again. The whole folder is
looked at now and then besides: a network filesystem sends no notices for what other machines
write, and a kernel may run out of watches.
"""

import asyncio
import logging
import time
from functools import partial
from pathlib import Path

from watchfiles import awatch

from api.observe import metrics
from ifedicl_serve.errors import ArtifactError
from ifedicl_serve.plugin.counters import measure_memory
from ifedicl_serve.tasks.registry import TaskRegistry

logger = logging.getLogger("vllm.ifedicl")  # vLLM formats and shows what is logged below "vllm"

QUIET_MS = 100  # notices are gathered until none came for this long,
GATHER_MS = 400  # or for this long in all
TURN_MS = 1000  # without notices: artifacts that were not checked yet get their turn
WHOLE_FOLDER_S = 10.0


async def follow(registry: TaskRegistry) -> None:
    """Refresh the registry for ever, and tell the log and the metrics of every change.

    Of others' refreshes, too: of the admin routes, and of requests whose task was replaced. A
    folder that cannot be read leaves the registry as it is.
    """
    registry.on_change = partial(_tell, registry)
    complaint = ""
    while True:
        try:
            await asyncio.to_thread(_refresh, registry)
            await _follow_notices(registry)
        except Exception as error:  # of any kind: nobody else follows the folder
            if str(error) != complaint:  # not once a second
                complaint = str(error)
                known = isinstance(error, (ArtifactError, OSError))
                logger.error(
                    "No notices from the tasks directory, looking myself: %s",
                    error,
                    exc_info=not known,
                )
        await asyncio.sleep(TURN_MS / 1000)


async def _follow_notices(registry: TaskRegistry) -> None:
    whole_next = 0.0
    folder = registry.folder.resolve()
    async for changes in awatch(
        folder,
        watch_filter=None,
        step=QUIET_MS,
        debounce=GATHER_MS,
        rust_timeout=TURN_MS,
        yield_on_timeout=True,
    ):
        parts = [Path(path).relative_to(folder).parts for _, path in changes]
        whole = time.monotonic() >= whole_next
        await asyncio.to_thread(_refresh, registry, None if whole else {p[0] for p in parts if p})
        if whole:
            whole_next = time.monotonic() + WHOLE_FOLDER_S


def _refresh(registry: TaskRegistry, names: set[str] | None = None) -> None:
    measure_memory("api")
    registry.refresh(names)


def _tell(registry: TaskRegistry, changed: dict[str, str]) -> None:
    for name, outcome in changed.items():
        logger.info("Artifact folder %s: %s", name, outcome)
    count_tasks(registry)


def count_tasks(registry: TaskRegistry) -> None:
    """Tell the metrics how many artifacts serve, and how many do not."""
    metrics.TASKS.labels("ready").set(len(registry.tasks))
    metrics.TASKS.labels("refused").set(len(registry.refused))
