"""How good a ranking is: metrics in exact, vectorised form, and the evaluator that feeds them."""
