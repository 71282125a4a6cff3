"""Push or pull in children of one process, each killed at a later call of a function than the one before.

python killed_pulls.py <plan.json>: the plan has the function to call, its arguments, the call to be killed at, and a
folder to look for after each child. Prints, as JSON, for each child whether it was killed and whether it was there.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from hub_stand_in import without_the_internet
from killed_runs import die_at_call

from monai_betavae.workflows import pull_model, push_model

MOST = 60
"""Children that are started at most."""


def run_once(plan: dict[str, Any], number: int) -> bool:
    """Run in a child that is killed at the number-th call; return whether it was."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            holder = importlib.import_module(plan["module"])
            for name in plan["holder"]:
                holder = getattr(holder, name)
            die_at_call(holder, plan["call"], number)
            {"push": push_model, "pull": pull_model}[plan["what"]](*plan["args"], **plan["options"])
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def main(plan_file: str) -> None:
    """Carry out a plan, until a child has come to its end."""
    without_the_internet()
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    found = []
    for number in range(1, MOST):
        killed = run_once(plan, number)
        found.append([killed, os.path.lexists(plan["looked_for"])])
        if not killed:
            break
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
