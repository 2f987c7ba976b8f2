"""What happens to events, declared: pure operators over columns and aggregates by name. Loads no heavy library."""

from penstock.flow.aggregates import Aggregation, count, max_, mean, min_, sum_
from penstock.flow.aggregates import sum_ as sum
from penstock.flow.builder import Flow, Grouped
from penstock.flow.spec import Aggregate, Filter, FlatMap, FlowSpec, LookupJoin, Map, Operator, Select, WithColumns

__all__ = [
    "Aggregate",
    "Aggregation",
    "Filter",
    "FlatMap",
    "Flow",
    "FlowSpec",
    "Grouped",
    "LookupJoin",
    "Map",
    "Operator",
    "Select",
    "WithColumns",
    "count",
    "max_",
    "mean",
    "min_",
    "sum",
    "sum_",
]
