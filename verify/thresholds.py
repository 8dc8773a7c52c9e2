"""Every number that decides what is an error, in one place, each with what it is a share or a multiple of.

None of them is a tolerance that a user would have to guess, and none is fitted to one rule: they say where rounding
ends. How they are put together is in `tolerance.budget`.
"""

# Float64, relative to the largest element of a leaf.
TIGHT = 1e-11  # a right answer may be off by this: float64 carries 2e-16, a chain of operations loses a few digits
EPS = 2.0**-52
EXACT = 1e-12  # an output as near as this has been computed in float64 throughout
SAME = 1e-9  # two programs that give numbers as near as this compute the same
APPROXIMATE = 1e-8  # a forward as near as this to its definition may be a series or a table
OTHER = 1e-6  # more than any rounding in float64 leaves: another number
NOTHING = 1e-10  # below it a gradient may be nothing but rounding: it is asked of what it is the sum
ZERO = 1e-13  # of numbers of size one: what rounding leaves where nothing should be
ROUNDING = 1e-14  # of a leaf's usual size: what rounding of its inputs may always move
SMOOTH = 1e-7  # of a leaf: as far as it may move with its inputs' last places where it has no kink
STEP = 1e-7  # of a leaf: to the side of a kink, and no further
TINY = 1e-290  # nothing smaller is told from zero
STEPS = 1e3  # times what the last step of a loop changes: what all that would follow may
NEVER = 1e18  # what stands for the logarithm of zero in many a program is larger
FAR_OUT = 1e6  # of inputs, and of gradients beside their usual size: no formula is made for such

# From float32 to float64: the same formula loses the same share of the last place.
SAFETY = 32.0  # times what the formula loses
DOWN = 2.0**-29  # eps64 / eps32

# Lower precision, relative to the largest element of a leaf, and multiples of what the definition loses there.
POOL = 4.0  # times the definition's largest error over all draws
ULPS = 8.0  # units in the last place, at least
GAIN = {"float32": 5e-5, "bfloat16": 0.04, "float16": 0.04}  # by which a result may be systematically too large
OVER = 8.0  # times what is allowed: more than a kink that one draw has met, or than formulas differ by
OTHER_BITS = 0.2  # a definition that is off by more than this has drawn other random bits, or chosen another side
RIGHT = 0.02  # an output, or a definition's gradient, as near as this is right in lower precision
KEPT = 0.01  # a gradient as near as this is well kept, and one smaller than this is not looked at
LOST = 0.1  # an error of this much, where the definition keeps its gradient, is a loss
GONE = 1e-3  # a number that is smaller than this beside what it should be, or beside others, is gone
MUCH = 0.3  # elements of this size, beside the largest, are those that may not be gone
DIM = 1e-7  # of its usual size: a gradient that is smaller has few digits in lower precision
BESIDE_OTHERS = 1e-6  # of the largest leaf: likewise
NOTED = 0.05  # an error of this much, and MANY times the definition's, is worth a note
MANY = 100.0
GROSS = 30.0  # times the gradient itself: an answer of no use
LOUD = 256  # what a loss is scaled by against underflow of float16, often by more
HALF_UNITS = 2048  # one over the unit in the last place of half precision
NEAR_END = 64.0  # times smaller than the largest number of a dtype: near its end
ON_CORES = 256.0  # units in the last place by which a kernel may depend on its cores
LONG = 512  # of an axis, along which a sum in bfloat16 may stand still

# Inputs.
LARGER = 8  # times as many numbers as in the example: looked at last

# Second derivatives.
SECOND = 1e-6  # relative: what matters is whether a second derivative is there
MAGNIFIED = 1e3  # times the rounding of a rule that computes in a narrower dtype
BESIDE = 1e-5  # of the leaf: a point so near has the same second derivative, where there is one
STEADY = 1e-3  # relative: by how much the second derivative may change on the way there

# What kind of mistake it is.
FINE = 1e-3  # how much of what is wrong a kind may leave unexplained
PLAIN = 0.2  # of a leaf: an error that large is no loss of digits
FLOAT32 = 1e-9, 2e-6  # errors between these are of the size of float32's rounding

# Random networks.
CLOSE = 1e-11  # of the largest element of a leaf
ALONG = 1e-9  # of two sweeps through whole networks, which lose six digits and more; a mistake is larger by far
LAST_PLACE = 1e-12  # of the largest number there is
SPREAD = 1.05  # of the products of a device
SPREAD_ELEMENTS = 1.5  # of its other arithmetic: how much is done twice for the sake of fusion differs
SUMMED = 1.5  # of the bytes that have to be summed: a product of two gradients at once may have a corner of no use
LARGE = 1e8  # between layers, or in a gradient: a difference there is looked for at smaller parameters
LOST = 256  # times what rounding each operation of the definitions does: where 1 + erf x is 0, what has its logarithm
MOVED = 16  # times what rounding of all that goes from layer to layer does to a gradient
SLACK = 64  # times what rounding of the inputs does to either side of a question
