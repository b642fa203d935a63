"""Weights that come with the program, and the catalogue of those that can be downloaded. Installed as ``demixr_models``."""
