"""Taking an interrupt back leaves the thread as it was."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, threading
from _thread import get_ident
from resilient.drivers import reach

def body():
    reach.prepare(reach.Reach.EXCEPTION)
    reach.retract(get_ident())
    sys.settrace(lambda *_: None)
    (lambda: None)()
    print("went on", flush=True)

thread = threading.Thread(target=body, daemon=True)
thread.start()
thread.join(20)
"""


def test_a_traced_thread_goes_on_after_an_interrupt_was_taken_back() -> None:
    # In a process of its own: where the flag for pending exceptions stays up, a traced thread of 3.11 never ends.
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout == "went on\n", ran.stderr
