"""One row per TFLite op: how it runs in TensorFlow, and how channels pass through it."""
