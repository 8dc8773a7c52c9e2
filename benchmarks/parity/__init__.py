"""PyTorch's own tests of its modules, said in jbp: one sample after the other, values and every gradient in float64.

`database` lists the samples (constructor arguments and inputs) of the two lists that PyTorch tests its modules by.
`says` has a translation for each class of modules: the layer, its parameters and inputs with their axes moved.
`comparison` runs both and holds them against each other. The command is `python -m benchmarks.parity`.
"""
