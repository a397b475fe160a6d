"""Many searches, on whatever runs them: processes of this machine, a SLURM cluster, Dask."""
