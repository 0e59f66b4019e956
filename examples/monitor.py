"""Monitor: looks at a site again and again, less and less often, until it answers or patience is over.

    callboard dev examples.monitor:app
    curl -X POST http://127.0.0.1:7071/api/orchestrators/wait_until_up -d '{"url": "http://127.0.0.1:8000/", "every": 5, "patience": 600}'
    python -m http.server 8000

Between two looks it needs no thread and no memory; the pauses are durable timers.
"""

import asyncio
import urllib.request
from dataclasses import dataclass
from datetime import timedelta

from callboard import App, OrchestrationContext

app = App("monitor")

#: The longest pause between two looks, in seconds.
LONGEST_PAUSE = 600.0


@dataclass
class Watch:
    """What to look at. Times are in seconds."""

    url: str
    every: float = 30
    patience: float = 86_400


@app.activity
def answers(url: str) -> bool:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is no address of a site")
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - checked above
            return bool(answer.status == 200)
    except OSError:
        return False


@app.orchestration
async def wait_until_up(context: OrchestrationContext, watch: Watch) -> str:
    began = context.current_utc_datetime
    pause, looks = watch.every, 1
    while not await context.call_activity(answers, watch.url):
        if context.current_utc_datetime - began > timedelta(seconds=watch.patience):
            return f"{watch.url} is still down"
        context.set_custom_status({"looks": looks, "next": context.current_utc_datetime + timedelta(seconds=pause)})
        await asyncio.sleep(pause)
        pause, looks = min(2 * pause, LONGEST_PAUSE), looks + 1
    return f"{watch.url} is up"
