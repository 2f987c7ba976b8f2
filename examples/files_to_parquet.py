"""NDJSON files to a Parquet directory: each line once, also when the program is killed and run again."""

from msgspec import Struct

from penstock import App, files, parquet


class Reading(Struct):
    station: str
    celsius: float


app = App("weather")
readings = app.topic("readings", Reading, key="station")
app.read(files("data/*.ndjson"), into=readings)
app.flow("lake", readings).to(parquet("lake/readings"))
