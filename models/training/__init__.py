"""Make data, train, score and export a model of four Open-Unmix networks."""
