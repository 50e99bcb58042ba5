"""What spellings are matched with: ONNX graphs without moves, and one try of one rule. Knows neither the onnx package nor an operator.

    opgraph.py   the normalised form of an ONNX graph: operators whose operands are constants and views
    region.py    a part of such a graph, and what it computes from other values
    trial.py     what a rule reads operands with, and what it returns
    proof.py     that a match computes what the operators do
"""
