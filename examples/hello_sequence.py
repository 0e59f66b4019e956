"""Function chaining: three activities, one after another."""

from callboard import App, OrchestrationContext

app = App("hello")


@app.activity
async def say_hello(city: str) -> str:
    return f"Hello {city}!"


@app.orchestration
async def hello_sequence(context: OrchestrationContext, cities: list[str]) -> list[str]:
    return [await context.call_activity(say_hello, city) for city in cities]
