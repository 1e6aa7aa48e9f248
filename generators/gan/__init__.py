"""Generators of images: their file, their training, their inverter, and how good they are.

Others rely on `file.read_generator` and `inverter.load_inverter`, on the bytes of the files, and on
trainings that give the same weights for the same settings; how they are computed is free as long
as those stay.
"""
