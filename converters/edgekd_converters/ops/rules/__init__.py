"""How channels pass through each op.

A rule reads the labels of the inputs, says which are the same channel and which must stay, and labels the outputs.
"""
