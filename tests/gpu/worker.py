"""Does the parts that `gpu.json` still lists; `check.py` starts it, again where a part killed it.

    python -m worker FOLDER DEADLINE ONLY ALLOW_CPU

DEADLINE is in seconds of `time.time` and names the check, ONLY is a text that names of parts hold,
ALLOW_CPU is 0 or 1.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping

from record import Record, Row, line

from simclr_tf.cli import exit_code
from simclr_tf.devices.quiet import quiet_libraries, start_tensorflow
from simclr_tf.errors import UserError


def do_parts(
    parts: Mapping[str, Callable[[], Iterator[Row]]], record: Record, deadline: float
) -> None:
    """Does all that the record lists, while there is time; what raises is recorded.

    Args:
        parts: What yields the rows of each part, by its name.
        record: Lists the names in order.
        deadline: No part begins later.
    """
    while record.to_do:
        if time.time() >= deadline:
            skipped = record.skip_rest()
            print(f"SKIPPED, as the time had ended: {'; '.join(skipped)}", flush=True)
            return
        name = record.begin()
        print(name, flush=True)
        try:
            for row in parts[name]():
                record.add(row)
                print(f"  {line(row)}", flush=True)
        except Exception as error:  # whatever it is, the other parts go on
            traceback.print_exc()
            said = " ".join(str(error).split())[:500]
            record.end("ERROR", f"{type(error).__name__}: {said}")
            print(f"  ERROR  {type(error).__name__}: {said}", flush=True)
        else:
            record.end()


def main(folder: str, deadline: str, only: str, allow_cpu: bool) -> int:
    """Does what is left; returns the exit code."""
    start_tensorflow()
    import machine
    from parts import all_parts
    from setting import find_device

    setting = find_device(allow_cpu)
    parts = all_parts(setting)
    record = Record(folder)
    if record.session != deadline:
        chosen = [name for name in parts if only in name]
        if not chosen:
            raise UserError(
                f"Expected --only as a text that a part's name holds; received: {only!r}. The "
                f"parts are: {'; '.join(parts)}."
            )
        record.machine = machine.describe()
        for name, value in record.machine.items():
            print(f"{name}: {value}", flush=True)
        os.makedirs(folder, exist_ok=True)
        record.plan(chosen, deadline, keep=bool(only))
    with quiet_libraries():
        do_parts(parts, record, float(deadline))
    return 0


if __name__ == "__main__":
    _, into, until, text, allowed = sys.argv
    sys.exit(exit_code("check", lambda: main(into, until, text, allowed == "1")))
