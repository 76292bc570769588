"""From a teacher and labelled text to a small student."""

from edgekd.distill.run import DistillOptions, DistillResult, distill

__all__ = ["DistillOptions", "DistillResult", "distill"]
