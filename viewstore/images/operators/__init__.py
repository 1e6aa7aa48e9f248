"""Augmentation operators: RandAugment's and its kin, the jigsaw, and chains of them.

A chain draws numbers of operators, their values and the order of the tiles from keyed streams;
these are recorded, and rendering needs nothing else. Operators may be added at the end of their
table, with new numbers: the numbers and the pixels of those that are there rest in stores. Policies
and generators rely on `chain.Chain`, on `recorded.operated` and on `recorded.wrong`.
"""
