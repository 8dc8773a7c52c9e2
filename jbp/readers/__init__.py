# pyright: strict
"""What else a sweep can tell, beside the gradient."""

from jbp.readers.norms import per_example_squared_norms as per_example_squared_norms
from jbp.readers.observe import Observed as Observed, Seen as Seen, observe as observe
from jbp.readers.per_example import per_example as per_example, per_example_gradients as per_example_gradients
from jbp.readers.picture import draw as draw
from jbp.readers.push import push as push
from jbp.readers.summary import summary as summary
from jbp.sweep import deltas as deltas
