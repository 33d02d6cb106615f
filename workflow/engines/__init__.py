"""How DVC and Snakemake run the stages: the ledger of code, locks, the plan, timings."""
