"""From settings to a simulation: Hydra's composition of YAML groups (`composition`, the only file that imports Hydra), building the parts
(`building`), runs from Python (`simulate`), and what there is to choose from (`options`)."""
