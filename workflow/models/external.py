"""Images that were made elsewhere, beside the models of the project."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor

from workflow.models.base import Model
from workflow.models.layers.noise import integers


class External(Model):
    """Holds images of another program and gives them in place of draws; it is not trained.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        title: its name in print; that of the entry, if none is given.
    """

    title = "Images made elsewhere"
    paper = "by a model that is unknown here"
    family = "external"
    taxonomy = "external"
    likelihood = "implicit"
    objective = "not trained here"
    about = (
        "Images that another program made. Nothing is known here of the model behind them, nor of what it cost, so "
        "only what needs images alone is measured: no density, no features, no reconstructions."
    )
    unranked = ("title",)
    images: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        title: Annotated[str, Field(min_length=1)] | None = None,
    ) -> None:
        super().__init__(shape, levels)
        self.title = title or self.title
        self.register_buffer("images", torch.empty(0, *shape, dtype=torch.uint8))

    def hold(self, images: Tensor) -> None:
        """Keep them all."""
        self.images = images

    def distinct(self, n: int, generator: Generator) -> Tensor:
        """The first n of a random order."""
        if n > len(self.images):
            raise ValueError(f"{len(self.images):,} images, but {n:,} are needed; add more")
        order = torch.randperm(len(self.images), generator=generator, device=self.device)
        return self.images[order[:n]]

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Any of the images, some perhaps twice: the distribution that gives each the same probability."""
        return self.images[integers(len(self.images), n, generator, self.device)]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        """Make room for as many images as a file has."""
        self.images = torch.empty_like(state_dict[f"{prefix}images"])
        super()._load_from_state_dict(state_dict, prefix, *others)

    @property
    def device(self) -> torch.device:
        """The device that the images are on, as there are no parameters."""
        return self.images.device


MODEL = External
