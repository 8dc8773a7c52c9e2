# pyright: strict
"""Pipelines: the times of a Repeat cut over stages, each on a device, with the backward pass in its two halves.

    plan = Pipeline(micro=8)                                            # all devices, one stage each
    plan = Pipeline((("data", 2), ("stage", 4)), micro=8, schedule="ZB-V")
    state, history = fit(net, loss, optimizer, start(net, optimizer, key, x, plan=plan), batches, plan=plan)

A schedule is a table of what each stage does in each tick: F, forward; B, `backward`; W, `gradient`. One program runs
any of them. For B the stage before is waiting, for W nobody is: it fills what would be idle time.
"""

from jbp.pipeline.plan import Pipeline as Pipeline
from jbp.pipeline.schedules import Schedule as Schedule, Work as Work, schedule as schedule
