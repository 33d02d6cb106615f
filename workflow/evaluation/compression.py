"""Images as a file of as many bits as a model says they need: log p(x) as a code length.

An exact p(x) pixel by pixel is turned into bits by a range coder (Martin 1979), at less than a thousandth of a bit per
pixel over the model's own count. A model with latents codes by bits back (Townsend, Bird & Barber 2019, Practical
Lossless Compression with Latent Variables Using Bits Back Coding): the latents of an image are drawn from q(z|x) by
decoding bits that are in the file already, so the file grows by the evidence lower bound from one draw.

To decode, the model is asked for the same probabilities again, to the last bit, so a file can be read only with the
same weights on the same kind of machine; the header says which weights, and checks what was decoded. The coders are
those of `constriction` (Bamler 2022).
"""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from workflow.errors import BakeoffError
from workflow.models.base import HasOrder, HasPosterior, Model

MAGIC = b"bakeoff1"
HEADER = struct.Struct(
    "<8s16sIIIHHHH"
)  # magic, weights, checksums of pixels and code, number and shape of images, levels
BATCH = 500  # images that a range coder codes at once; another number may change the last bits of the probabilities
REACH, STEPS = (
    8,
    256,
)  # latents are rounded to so many steps per standard deviation of the prior, up to so many of these
UNABLE = (
    "no p(x) that can be coded; compress with a PixelCNN, a PixelRNN or a VAE with a standard normal prior, "
    "without classes"
)
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Words = np.ndarray[tuple[int, ...], np.dtype[np.uint32]]


def compress(model: Model, images: Tensor, weights: str) -> bytes:
    """Images, uint8 (N, C, H, W), as the content of a file.

    Raises BakeoffError if the model allows neither way to code.

    Args:
        model: in evaluation mode.
        images: to compress.
        weights: SHA-256 of the model's file, in hex.
    """
    words = (
        _pixel_by_pixel(_ordered(model), images)
        if _is_exact(model)
        else _bits_back(_latent(model), images, model.device)
    )
    code = words.astype("<u4").tobytes()
    sums, (count, *shape) = (_checksum(images), zlib.crc32(code)), images.shape
    return HEADER.pack(MAGIC, bytes.fromhex(weights)[:16], *sums, count, *shape, model.levels) + code


def expand(model: Model, content: bytes, weights: str) -> Tensor:
    """The images, uint8 (N, C, H, W), in the content of a file that `compress` made; arguments as there.

    Raises BakeoffError if it is no such file, was made with other weights, or does not decode to what was encoded.
    """
    if len(content) < HEADER.size or not content.startswith(MAGIC):
        raise BakeoffError("not a file of compressed images; make it again")
    _, made_with, checksum, of_code, count, *_ = HEADER.unpack_from(content)
    if made_with != bytes.fromhex(weights)[:16]:
        raise BakeoffError("compressed with other weights than these; make it again")
    if zlib.crc32(content[HEADER.size :]) != of_code:
        raise BakeoffError("damaged; make it again")
    words = np.frombuffer(content, "<u4", offset=HEADER.size).astype(np.uint32)
    try:
        if _is_exact(model):
            images = _read_pixel_by_pixel(_ordered(model), words, count)
        else:
            images = _read_bits_back(_latent(model), words, count, model.shape, model.device)
    except AssertionError:  # the coder's own, of a code that these probabilities cannot have made
        images = torch.empty(0, dtype=torch.uint8)
    if _checksum(images) != checksum:
        raise BakeoffError(
            "made on another kind of machine, whose probabilities differ in their last bits; make it again"
        )
    return images


def _is_exact(model: Model) -> bool:
    return model.likelihood == "exact"


def _ordered(model: Model) -> HasOrder:
    if not isinstance(model, HasOrder) or model.classes:
        raise BakeoffError(f"{model.title}: {UNABLE}")
    return model


def _latent(model: Model) -> HasPosterior:
    if not isinstance(model, HasPosterior) or not model.standard_prior or model.classes:
        raise BakeoffError(f"{model.title}: {UNABLE}")
    return model


def _pixel_by_pixel(model: HasOrder, images: Tensor) -> Words:
    from constriction import stream

    encoder, family = stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)
    for batch in images.split(BATCH):

        def write(logits: Tensor, at: Callable[[Tensor], Tensor], batch: Tensor = batch) -> Tensor:
            levels = at(batch.to(logits.device)).long()
            encoder.encode(levels.to("cpu", torch.int32).numpy(), family, _floats(logits.float().softmax(-1)))
            return levels

        model.in_order(len(batch), write)
    words: Words = encoder.get_compressed()
    return words


def _read_pixel_by_pixel(model: HasOrder, words: Words, count: int) -> Tensor:
    from constriction import stream

    decoder, family = stream.queue.RangeDecoder(words), stream.model.Categorical(perfect=False)

    def read(logits: Tensor, _: Callable[[Tensor], Tensor]) -> Tensor:
        levels = decoder.decode(family, _floats(logits.float().softmax(-1)))
        return torch.from_numpy(levels).long().to(logits.device)

    sizes = [min(BATCH, count - start) for start in range(0, count, BATCH)]
    return torch.cat([model.in_order(size, read).cpu() for size in sizes])


@torch.no_grad()
def _bits_back(model: HasPosterior, images: Tensor, device: torch.device) -> Words:
    """One image after another, so that all but the first draw their latents from the bits of those before."""
    from constriction import stream

    grid, pixels = _grid(), stream.model.Categorical(perfect=False)
    coder = stream.stack.AnsCoder(_first_bits(_latents(model, tuple(images.shape[1:]), device)))
    for image in images.split(1):
        mean, deviation = _posterior(model, image, device)
        z = coder.decode(grid, mean, deviation)
        coder.encode_reverse(image.flatten().to(torch.int32).numpy(), pixels, _given(model, z, device))
        coder.encode_reverse(z, grid, *_prior(len(z)))
    words: Words = coder.get_compressed()
    return words


@torch.no_grad()
def _read_bits_back(
    model: HasPosterior,
    words: Words,
    count: int,
    shape: tuple[int, int, int],
    device: torch.device,
) -> Tensor:
    """The last image first, and with each its latents go back to where they were drawn from."""
    from constriction import stream

    grid, pixels, coder = _grid(), stream.model.Categorical(perfect=False), stream.stack.AnsCoder(words)
    latents = _latents(model, shape, device)
    found: list[Tensor] = []
    for _ in range(count):
        z = coder.decode(grid, *_prior(latents))
        found.append(torch.from_numpy(coder.decode(pixels, _given(model, z, device))).to(torch.uint8).view(1, *shape))
        coder.encode_reverse(z, grid, *_posterior(model, found[-1], device))
    return torch.cat(found[::-1])


def _grid() -> object:
    from constriction import stream

    return stream.model.QuantizedGaussian(-REACH * STEPS, REACH * STEPS)


def _first_bits(latents: int) -> Words:
    """Any bits that the first image's latents are drawn from: 16 a latent, and some to spare."""
    return np.random.default_rng(0).integers(1, 2**32, latents // 2 + 4, dtype=np.uint32)


def _latents(model: HasPosterior, shape: tuple[int, ...], device: torch.device) -> int:
    """Their number."""
    return model.posterior(torch.zeros(1, *shape, dtype=torch.uint8, device=device))[0].shape[1]


def _prior(latents: int) -> tuple[Array, Array]:
    """Mean and standard deviation of each latent, in steps."""
    return np.zeros(latents), np.full(latents, float(STEPS))


def _posterior(model: HasPosterior, image: Tensor, device: torch.device) -> tuple[Array, Array]:
    """The same of q(z|x); image: uint8 (1, C, H, W)."""
    mean, log_variance = (found[0].double().cpu().numpy() for found in model.posterior(image.to(device)))
    return np.clip(mean, -REACH, REACH) * STEPS, np.exp(log_variance / 2) * STEPS


def _given(model: HasPosterior, z: "np.ndarray[tuple[int], np.dtype[np.int32]]", device: torch.device) -> object:
    """Probability of each pixel's levels given latents in steps: float32 (C · H · W, levels)."""
    at = torch.from_numpy(z / STEPS).float().to(device)
    return _floats(model.levels_given(at[None])[0].flatten(1).T.exp())


def _floats(probabilities: Tensor) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    found: np.ndarray[tuple[int, int], np.dtype[np.float32]] = probabilities.float().cpu().contiguous().numpy()
    return found


def _checksum(images: Tensor) -> int:
    return zlib.crc32(images.contiguous().numpy().tobytes())
