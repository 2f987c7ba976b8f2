"""The face of Penstock: an app declares, runs, publishes and reads."""

from penstock.app.app import App
from penstock.app.declared import AppFlow, TopicHandle
from penstock.app.outcome import Acked, Outcome, Rejected, Unknown

__all__ = ["Acked", "App", "AppFlow", "Outcome", "Rejected", "TopicHandle", "Unknown"]
