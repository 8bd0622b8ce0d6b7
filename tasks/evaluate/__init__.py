"""How good a segmentation is, and where two of them differ."""

from tasks.evaluate.contingency import Contingency, contingency, merge
from tasks.evaluate.scores import Scores, score

__all__ = ["Contingency", "Scores", "contingency", "merge", "score"]
