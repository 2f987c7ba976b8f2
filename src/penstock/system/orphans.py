"""A child that must not outlive its parent: it is asked to end when the pipe that its parent holds is closed."""

from __future__ import annotations

import os
import signal
import threading


def end_with(fd: int) -> None:
    """Ask this process to end (SIGTERM) when `fd`, a pipe that the parent never writes to, comes to its end."""

    def wait() -> None:
        while os.read(fd, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="penstock-parent", daemon=True).start()
