"""Eternal orchestration: removes old files from a folder, waits, and begins anew, until it is told to stop.

    callboard dev examples.cleanup:app
    curl -X POST http://127.0.0.1:7071/api/orchestrators/clean_up/tmp -d '{"folder": "/tmp/scratch", "older_than": 86400, "every": 3600}'
    curl -X POST http://127.0.0.1:7071/runtime/webhooks/durabletask/instances/tmp/raiseEvent/stop -H 'Content-Type: application/json'

Each round is an execution of its own, so its history never grows. The id makes it one job per folder, however often it is started.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from callboard import App, OrchestrationContext

app = App("cleanup")


@dataclass
class Job:
    """What to remove, and how often. Times are in seconds."""

    folder: str
    older_than: float
    every: float = 3600
    removed: int = 0
    """How many files earlier rounds have removed."""


@app.activity
def remove_old_files(folder: str, older_than: float) -> int:
    old = [
        path for path in Path(folder).iterdir() if path.is_file() and time.time() - path.stat().st_mtime > older_than
    ]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


@app.orchestration
async def clean_up(context: OrchestrationContext, job: Job) -> int:
    removed = await context.call_activity(remove_old_files, {"folder": job.folder, "older_than": job.older_than})
    job = replace(job, removed=job.removed + removed)
    context.set_custom_status({"removed": job.removed, "looked": context.current_utc_datetime})
    stop = await context.wait_for_external_event("stop", timeout=job.every, default=False)
    if stop is False:
        context.continue_as_new(job)
    return job.removed
