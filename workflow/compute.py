"""Where the numbers are crunched: the device, the threads, and the seeds that make runs repeatable."""

import os

import torch

from workflow.errors import BakeoffError
from workflow.params import Compute


def prepare_torch(compute: Compute) -> torch.device:
    """Set torch up for repeatable runs and return the device to use.

    Raises BakeoffError if a GPU is asked for and there is none.
    """
    from threadpoolctl import threadpool_limits

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is repeatable only so
    # Another number of threads adds in another order. Engines set some of these variables and not others, so set all,
    # for libraries still to be loaded, and limit those that are loaded already.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(compute.threads)
    threadpool_limits(compute.threads)
    torch.set_num_threads(compute.threads)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, which loads the compiler as well
    torch.backends.cudnn.allow_tf32 = False  # else convolutions have 10 bits on a GPU: too few to invert a flow
    available = torch.cuda.is_available()
    if compute.device == "cuda" and not available:
        raise BakeoffError("params.yaml: compute.device: 'cuda': no GPU that torch can use; set it to auto or cpu")
    return torch.device("cuda" if available and compute.device != "cpu" else "cpu")


def generator(device: torch.device, *seeds: int) -> torch.Generator:
    """A generator on `device` whose stream depends on all of `seeds`, in order."""
    mixed = 0
    for seed in seeds:  # splitmix64's increment and multiplier: nearby seeds give unrelated streams
        mixed = ((mixed ^ seed) + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 % 2**63
    return torch.Generator(device).manual_seed(mixed)
