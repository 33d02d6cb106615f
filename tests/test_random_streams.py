"""Every use of random numbers has a stream of its own."""

import torch

from workflow.random_streams import Stream, make_generator

CPU = torch.device("cpu")


def _drawn(seed: int, stream: Stream, *indices: int) -> torch.Tensor:
    return torch.rand(2000, generator=make_generator(CPU, seed, stream, *indices))


def test_no_two_streams_share_a_value_but_the_one_documented_pair() -> None:
    assert [stream.value for stream in Stream] == list(range(1, 20))
    assert [name for name, stream in Stream.__members__.items() if name != stream.name] == ["CLASSIFIER"]


def test_generators_of_neighbouring_seeds_and_streams_are_unrelated() -> None:
    drawn = [_drawn(seed, stream) for seed in range(3) for stream in (Stream.LOSS, Stream.ORDER, Stream.VALIDATION)]
    drawn += [_drawn(0, Stream.LOSS, step, part) for step in range(2) for part in range(2)]
    correlation = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert correlation.abs().max() < 0.1


def test_a_generator_repeats() -> None:
    assert torch.equal(_drawn(1, Stream.SAMPLES), _drawn(1, Stream.SAMPLES))
