"""What else a sweep can tell, beside the gradient."""

from jbp.readers.norms import deltas as deltas, per_example_squared_norms as per_example_squared_norms
from jbp.readers.picture import draw as draw
from jbp.readers.summary import summary as summary
