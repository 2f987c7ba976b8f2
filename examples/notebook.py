"""A notebook, cell by cell: the plain API works although a notebook runs an event loop of its own."""

# %% Declare a topic; opens nothing yet.
from datetime import UTC, datetime

from msgspec import Struct

from penstock import App, Client, count, mean


class Reading(Struct):
    station: str
    at: datetime
    celsius: float


app = App("weather")
readings = app.topic("readings", Reading, key="station", time="at")

# %% Publish some, and wait until they are on the disk.
with Client(app) as client:
    outcomes = client.publish_many(
        readings,
        [Reading("EWR", datetime(2013, 1, 1, hour, tzinfo=UTC), 3.0 + hour / 2) for hour in range(24)]
        + [Reading("JFK", datetime(2013, 1, 1, hour, tzinfo=UTC), 2.0 + hour / 3) for hour in range(24)],
    )
outcomes[0]

# %% Read them as a Polars frame.
frame = app.read("readings", columns=["station", "celsius"])
frame.group_by("station", maintain_order=True).mean()

# %% Add a running aggregate and let it work until nothing is left to do (`await`, because the loop runs already).
by_station = app.flow("by_station", readings).by("station").agg(readings=count(), mean_celsius=mean("celsius"))
report = await app.serve(until_idle=True)  # noqa: F704, PLE1142 - a cell may await
app.read("by_station")
