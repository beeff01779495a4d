"""Windows' clocks up to Python 3.12, on any system: in steps of 15.6 ms.

`pytest --coarse-clock` runs it in its own process and, by way of PYTHONPATH, in those that it
starts, the notebooks' kernels among them. asyncio's loops then say the same time for a step, and
take a timer for due up to a step early. time.perf_counter stays as fine as it is there.
"""

import time

STEP_S = 1 / 64
COARSE = ("monotonic", "time")

_get_clock_info = time.get_clock_info


def _in_steps(clock):
    return lambda: clock() // STEP_S * STEP_S


def _clock_info(name):
    info = _get_clock_info(name)
    if name in COARSE:
        info.resolution = STEP_S
    return info


for _name in COARSE:
    setattr(time, _name, _in_steps(getattr(time, _name)))
time.get_clock_info = _clock_info
