"""The command line: faces only, each command in a module of its own that is loaded when it is called."""

from penstock.cli.entry import main

__all__ = ["main"]
