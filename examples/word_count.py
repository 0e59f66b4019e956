"""Fan-out, fan-in (MapReduce): counts the words of all files in a folder, one activity for each file.

    callboard dev examples.word_count:app
    curl -X POST 'http://127.0.0.1:7071/api/orchestrators/count_words?timeout=30' -d '{"folder": "docs", "pattern": "*.md", "top": 5}'

On servers the files are read by as many workers as there are, so the folder must be one that all of them see.
"""

import asyncio
import re
from collections import Counter
from pathlib import Path

from callboard import App, OrchestrationContext

app = App("words")


@app.activity
def find_files(folder: str, pattern: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob(pattern) if path.is_file())


@app.activity
def count_file(path: str) -> dict[str, int]:
    """Map: the words of one file."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return Counter(re.findall(r"[^\W\d_]+", text.lower()))


@app.activity
def most_common(counts: list[dict[str, int]], top: int) -> dict[str, int]:
    """Reduce: the sum of all counts, the most frequent words first."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common(top))


@app.orchestration
async def count_words(
    context: OrchestrationContext, folder: str, pattern: str = "*.txt", top: int = 10
) -> dict[str, int]:
    files = await context.call_activity(find_files, {"folder": folder, "pattern": pattern})
    counts: list[dict[str, int]] = []
    for count in asyncio.as_completed([context.call_activity(count_file, path) for path in files]):
        counts.append(await count)
        context.set_custom_status(f"{len(counts)} of {len(files)} files")
    return await context.call_activity(most_common, {"counts": counts, "top": top})
