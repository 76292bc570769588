"""How each op runs in TensorFlow: differentiable, for many samples at once, equal to the LiteRT interpreter."""
