"""The three event types of the demonstration: what an airport says about a flight.

A flight is identified by its `key`, for example ``UA-1545-EWR-20130101T10``: carrier, flight number, origin and the
hour of scheduled departure in UTC. Every moment is aware and in UTC; every length of time is in whole minutes.
"""

from __future__ import annotations

from datetime import datetime

import msgspec


class FlightScheduled(msgspec.Struct, frozen=True):
    """A flight was planned. Event time is `scheduled`, the planned departure.

    `tailnum` is the aircraft's registration, None where it is not recorded.
    """

    key: str
    carrier: str
    flight: int
    origin: str
    dest: str
    tailnum: str | None
    scheduled: datetime


class FlightDeparted(msgspec.Struct, frozen=True):
    """A flight left, or was cancelled: then `departed` and `delay_min` are None. Event time is `scheduled`.

    `delay_min` is `departed` minus `scheduled`, negative for a flight that left early.
    """

    key: str
    carrier: str
    flight: int
    origin: str
    dest: str
    scheduled: datetime
    departed: datetime | None
    delay_min: int | None


class FlightArrived(msgspec.Struct, frozen=True):
    """A flight landed. Event time is `arrived`.

    `arrived` is `departed` plus `air_time_min`, which leaves out the time on the ground; `arr_delay_min` is the delay
    at the gate as the airline reports it, negative for a flight that came early. The two are independent records.
    """

    key: str
    carrier: str
    flight: int
    origin: str
    dest: str
    scheduled: datetime
    departed: datetime
    arrived: datetime
    arr_delay_min: int
    air_time_min: int
