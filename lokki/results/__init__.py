"""Results of runs, wherever they ran."""
