"""Small processes in which neuron tries what a stranger's schema or file may make slow.

A call is a function of values, run under limits of CPU time and memory. What exceeds them is killed, so it
costs neither the event loop nor a stream anything; the next call gets another process. Limits say what a call
may take, not what it may do: the code is neuron's own, only its input is not.

    sandbox      takes calls, principals in turn, and gives each a process
    process      one process as the daemon sees it
    __main__     the process itself: no torch, no asyncio, one call at a time
    messages     what they say to each other
    verdicts     what checks found, remembered
"""

from __future__ import annotations
