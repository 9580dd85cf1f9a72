"""From settings to runs: Hydra's composition of YAML groups (`composition`), its command line (`launching`; no other file imports Hydra),
building the parts (`building`), runs from Python (`simulate`), one run, and many of which none is done twice (`running`, `sweeps`,
`processes`), going on with a run (`resuming`), and what there is to choose from (`options`)."""
