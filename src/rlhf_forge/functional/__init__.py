"""The mathematics of RLHF: pure functions on plain tensors.

A ``mask`` is True on real tokens; False may stand anywhere, between real tokens too. A function
that takes a mask never reads outside it: NaN there changes neither results nor gradients, results
are exactly 0 there, and an empty selection gives 0. A function without one promises nothing about
padding. What goes in as float64 comes out as float64.

Hyper-parameters are typed ``float | int``: run-time type checkers tell the two apart, and a gamma
of 1 is as legal as one of 1.0.
"""
