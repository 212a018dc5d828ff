"""How the weights of the preset `world` are made, by the trainings of recipes/toy; not shipped."""
