"""What happens to an event that fails: retried, or laid among the dead letters with the reason."""

from penstock.delivery.deadletter import DeadLetter, dead_letter_topic, to_batch
from penstock.delivery.retry import Retry

__all__ = ["DeadLetter", "Retry", "dead_letter_topic", "to_batch"]
