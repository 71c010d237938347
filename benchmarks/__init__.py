"""The figures that redteam promises, measured. `make bench` runs them all and writes `results/benchmarks/`."""
