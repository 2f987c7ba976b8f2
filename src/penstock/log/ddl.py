"""The log's tables, each with the module that owns it, and the numbers that are fixed when a log is created."""

from __future__ import annotations

FORMAT_VERSION = 2
APPLICATION_ID = 0x50454E53  # "PENS"
PAGE_BYTES = 16384

# A block's key is its partition and first offset in one integer, so that a commit writes one page fewer than with an
# index beside the table: pid << OFFSET_BITS | first.
OFFSET_BITS = 46
OFFSET_MAX = 2**OFFSET_BITS - 1
PID_MAX = 2 ** (63 - OFFSET_BITS) - 1

# The row of pid 0 in `partition` is no partition: its `next` counts the log's commits (the witness is held against
# it); it lies there because that page is written by every publish anyway.
TIP_PID = 0

QUARANTINE = """
CREATE TABLE quarantine(pid INTEGER NOT NULL, first INTEGER NOT NULL, end INTEGER NOT NULL, at_us INTEGER NOT NULL,
    reason TEXT NOT NULL, chk INTEGER NOT NULL, PRIMARY KEY(pid, first)) WITHOUT ROWID;  -- quarantine.py
"""

IDS = """
CREATE TABLE event_id(at INTEGER PRIMARY KEY, id INTEGER NOT NULL, rest BLOB NOT NULL, time_us INTEGER,
    chk INTEGER NOT NULL);                                                          -- ids.py
CREATE INDEX event_id_of ON event_id(id);                                           -- ids.py
CREATE TABLE remembered(pid INTEGER PRIMARY KEY, newest_us INTEGER, entries INTEGER NOT NULL,
    chk INTEGER NOT NULL);                                                          -- ids.py
"""

TABLES = (
    """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;                       -- meta.py
CREATE TABLE topic(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, folded TEXT NOT NULL UNIQUE,
    spec BLOB NOT NULL, schema_id INTEGER NOT NULL, partitions INTEGER NOT NULL, chk INTEGER NOT NULL);  -- catalogue.py
CREATE TABLE schema(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, description BLOB NOT NULL, arrow BLOB,
    chk INTEGER NOT NULL);                                                          -- catalogue.py
CREATE TABLE grp(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, spec BLOB NOT NULL, partitions INTEGER NOT NULL,
    chk INTEGER NOT NULL, warned_us INTEGER NOT NULL DEFAULT 0);                    -- catalogue.py
CREATE TABLE partition(pid INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, number INTEGER NOT NULL,
    next INTEGER NOT NULL, chk INTEGER NOT NULL, begin INTEGER NOT NULL DEFAULT 0,
    UNIQUE(topic_id, number));                                                      -- placed.py
CREATE TABLE block(at INTEGER PRIMARY KEY, count INTEGER NOT NULL, schema_id INTEGER NOT NULL,
    recorded_us INTEGER NOT NULL, time_min INTEGER, time_max INTEGER, size INTEGER NOT NULL, origin TEXT NOT NULL,
    since INTEGER NOT NULL, crc INTEGER NOT NULL, chk INTEGER NOT NULL, data BLOB NOT NULL);  -- placed.py
CREATE TABLE producer(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kept INTEGER NOT NULL,
    seen_us INTEGER NOT NULL, chk INTEGER NOT NULL);                                -- producers.py
CREATE INDEX producer_gone ON producer(kept, seen_us);                              -- producers.py
CREATE TABLE sequence(producer_id INTEGER NOT NULL, epoch INTEGER NOT NULL, number INTEGER NOT NULL,
    content INTEGER NOT NULL, ranges BLOB NOT NULL, note BLOB NOT NULL, chk INTEGER NOT NULL,
    PRIMARY KEY(producer_id, epoch, number)) WITHOUT ROWID;                         -- producers.py
CREATE TABLE progress(group_id INTEGER NOT NULL, pid INTEGER NOT NULL, epoch INTEGER NOT NULL, floor INTEGER NOT NULL,
    holes BLOB NOT NULL, steps INTEGER NOT NULL, entries INTEGER NOT NULL, chk INTEGER NOT NULL, oldest INTEGER,
    kept INTEGER NOT NULL DEFAULT 0, seen_us INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(group_id, pid)) WITHOUT ROWID;                                      -- progress.py
CREATE TABLE step(group_id INTEGER NOT NULL, pid INTEGER NOT NULL, number INTEGER NOT NULL, epoch INTEGER NOT NULL,
    before INTEGER NOT NULL, after INTEGER NOT NULL, outputs BLOB NOT NULL, refs BLOB NOT NULL, at_us INTEGER NOT NULL,
    chk INTEGER NOT NULL, PRIMARY KEY(group_id, pid, number)) WITHOUT ROWID;        -- progress.py
CREATE TABLE ledger(group_id INTEGER NOT NULL, pid INTEGER NOT NULL, space TEXT NOT NULL, key BLOB NOT NULL,
    value BLOB NOT NULL, chk INTEGER NOT NULL, PRIMARY KEY(group_id, pid, space, key)) WITHOUT ROWID;  -- progress.py
"""
    + QUARANTINE
    + IDS
)
