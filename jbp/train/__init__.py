# pyright: strict
"""Training: one step, the loop around it, and the step that clips exactly with the optimizer inside the sweep."""

from jbp.train.average import average as average, averaged as averaged
from jbp.train.log import lines as lines
from jbp.train.loop import Diverged as Diverged, fit as fit
from jbp.train.measures import accuracy as accuracy
from jbp.train.plan import Plan as Plan
from jbp.train.step import State as State, start as start, step as step
