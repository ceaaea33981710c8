"""Quantizing a whole model: parameters in, parameters with QTensors out.

`tree.py` chooses a format for each by its path, `report.py` says what that cost.
"""

from pikojax.quant.report import compare, table
from pikojax.quant.tree import Rule, quantize_tree, rules_for

__all__ = ["Rule", "compare", "quantize_tree", "rules_for", "table"]
