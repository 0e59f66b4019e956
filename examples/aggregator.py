r"""Aggregator: weather stations send readings, in any order and from anywhere; an entity for each station adds them up.

    callboard dev examples.aggregator:app
    curl -X POST 'http://127.0.0.1:7071/api/orchestrators/take_readings?timeout=30' \
        -d '[{"station": "oslo", "celsius": -3.5}, {"station": "rome", "celsius": 18}, {"station": "oslo", "celsius": -1}]'
    curl -X POST 'http://127.0.0.1:7071/api/orchestrators/report?timeout=30' -d '["oslo", "rome"]'

An entity does one thing at a time, so nothing is lost when many add to it at once; it needs no memory while nobody asks it.
"""

import asyncio
from dataclasses import dataclass

from callboard import App, EntityId, OrchestrationContext

app = App("weather")


@dataclass
class Reading:
    station: str
    celsius: float


@dataclass
class Summary:
    readings: int
    mean: float
    lowest: float
    highest: float


@app.entity
class Station:
    readings: int = 0
    total: float = 0
    lowest: float = 1000
    highest: float = -1000

    def add(self, celsius: float) -> None:
        self.readings += 1
        self.total += celsius
        self.lowest, self.highest = min(self.lowest, celsius), max(self.highest, celsius)

    def summary(self) -> Summary:
        return Summary(self.readings, self.total / max(self.readings, 1), self.lowest, self.highest)


@app.orchestration
async def take_readings(context: OrchestrationContext, readings: list[Reading]) -> None:
    for reading in readings:
        context.signal_entity(EntityId("station", reading.station), Station.add, reading.celsius)


@app.orchestration
async def report(context: OrchestrationContext, stations: list[str]) -> dict[str, Summary]:
    summaries = (context.call_entity(EntityId("station", station), Station.summary) for station in stations)
    return dict(zip(stations, await asyncio.gather(*summaries), strict=True))
