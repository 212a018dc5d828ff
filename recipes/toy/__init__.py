"""How the toy preset's weights, policy and model card are made; `python -m recipes.toy --help`.

Not installed with the product, which imports nothing of it.
"""
