"""Moves events through the steps: takes, works, commits, and starts again where it was."""
