"""Windows' clock up to Python 3.12, on any system: time.monotonic in steps of 15.6 ms.

`pytest --coarse-clock` runs it in its own process and, by way of PYTHONPATH, in those that it
starts, the notebooks' kernels among them. asyncio's loops then say the same time for a step, and
take a timer for due up to a step early. time.perf_counter stays as fine as it is there.
"""

import time

STEP_S = 1 / 64

_fine = time.monotonic
_get_clock_info = time.get_clock_info


def _monotonic() -> float:
    return _fine() // STEP_S * STEP_S


def _coarse_clock_info(name):
    info = _get_clock_info(name)
    if name == "monotonic":
        info.resolution = STEP_S
    return info


time.monotonic = _monotonic
time.get_clock_info = _coarse_clock_info
