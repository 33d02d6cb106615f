"""GAN: Goodfellow et al. 2014, Generative Adversarial Nets."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.func import functional_call

from workflow.models.base import Model
from workflow.models.layers.adversarial import (
    VALIDATION_SAMPLES,
    Network,
    critic_network,
    energy_distance,
    generator_network,
    input_gradient,
)
from workflow.models.layers.common import draw_classes, from_unit, to_unit
from workflow.models.layers.noise import normal
from workflow.models.layers.style import StyleGenerator

OfFakes = Literal["minimax", "non-saturating"]  # objectives that need the critic's outputs for fake images alone
Objective = Literal[OfFakes, "relativistic"]
RELATIVISTIC = "min_G max_D 𝔼ₓ,z[ log σ(D(x) − D(G(z))) ];  G maximises 𝔼ₓ,z[ log σ(D(G(z)) − D(x)) ]"


class Gan(Model):
    """A generator against a critic (the paper's discriminator).

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        latents: size of the generator's noise vector.
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        features: size of the critic's last hidden layer, which `encode` returns.
        objective: what the generator minimises: the paper's minimax game or its non-saturating variant (section 3); or
            a game on differences between the critic's outputs for real and fake images (Jolicoeur-Martineau 2019, The
            Relativistic Discriminator, eq. 3 and 4), which with r1 and r2 is that of R3GAN (Huang et al. 2024, The GAN
            is dead; long live the GAN!, section 2), without its network.
        critic_steps: turns of the critic for each turn of the generator, the paper's k.
        r1: weight of the gradient penalty on real images (Mescheder et al. 2018, Which Training Methods for GANs do
            actually Converge?, eq. 9); 0 for the paper's GAN.
        r2: likewise on fake images (eq. 10).
        classes: number of classes of p(x|y); 0 for p(x). The generator gets the class as well (Mirza & Osindero 2014,
            Conditional Generative Adversarial Nets), and the critic compares it with the image by an inner product
            (Miyato & Koyama 2018, cGANs with Projection Discriminator, eq. 3), so that its features depend only on the
            image.
        unrolled_steps: gradient descent steps of the critic that the generator looks ahead (Metz et al. 2017, Unrolled
            Generative Adversarial Networks, eq. 7 to 10). The generator's loss then includes the term of real images,
            because the future critic's output on them depends on the generator.
        unrolled_lr: learning rate of these steps.
        network: "convolutional"; "dense", two hidden layers of `channels` features (the critic's second one has
            `features`), for images of any size; or "style", the generator of StyleGAN2 (Karras et al. 2020, Analyzing
            and Improving the Image Quality of StyleGAN) with the convolutional critic. What follows is for "style".
        mapping_layers: of the network that turns noise into a style; the paper has 8.
        mixing: probability that an image in training has two styles, one for its first layers and one for the others
            (Karras et al. 2019, A Style-Based Generator Architecture for Generative Adversarial Networks, section 3.1);
            the paper's is 0.9.
        truncation: ψ, by which a style's distance from the mean style is multiplied, except in training: below 1,
            samples differ less (appendix B of the same).
    """

    title = "GAN"
    paper = "Goodfellow et al. 2014, Generative Adversarial Nets"
    family = "adversarial"
    taxonomy = "implicit"
    likelihood = "implicit"
    unranked = ("classes",)  # distances are measured within each class
    objective = "min_G max_D 𝔼ₓ[ log D(x) ] + 𝔼_z[ log(1 − D(G(z))) ];  non-saturating: G maximises 𝔼_z[ log D(G(z)) ]"
    about = (
        "A generator maps noise to images, and a critic is trained to tell them from real ones. At the optimum of the "
        "game, samples follow the data distribution and the critic is right half the time. Its variants differ in the "
        "generator's loss and in regularisation, such as a gradient penalty on real images (R1). Sampling takes one "
        "pass, and there is no density: no likelihood, no bound, and no reconstruction. Features come from the critic; "
        "the checkpoint is chosen by the energy distance between samples and held-out images."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        latents: Annotated[int, Field(ge=1)],
        channels: Annotated[int, Field(ge=1)],
        features: Annotated[int, Field(ge=1)],
        objective: Objective,
        critic_steps: Annotated[int, Field(ge=1)],
        r1: Annotated[float, Field(ge=0)],
        classes: Annotated[int, Field(ge=0)] = 0,
        unrolled_steps: Annotated[int, Field(ge=0)] = 0,
        unrolled_lr: Annotated[float, Field(ge=0)] = 0.0,
        network: Literal[Network, "style"] = "convolutional",
        r2: Annotated[float, Field(ge=0)] = 0.0,
        mapping_layers: Annotated[int, Field(ge=0)] = 0,
        mixing: Annotated[float, Field(ge=0, le=1)] = 0.0,
        truncation: Annotated[float, Field(ge=0, le=1)] = 1.0,
    ) -> None:
        super().__init__(shape, levels)
        if (unrolled_steps > 0) != (unrolled_lr > 0):
            raise ValueError("unrolled_steps and unrolled_lr go together: both above zero, or neither")
        if network == "style" and not mapping_layers:
            raise ValueError("mapping_layers: network: style needs at least one")
        if network != "style" and (mapping_layers, mixing, truncation) != (0, 0, 1):
            raise ValueError("mapping_layers, mixing and truncation are for network: style")
        self.latents, self.r1, self.r2, self.critic_steps, self.classes = latents, r1, r2, critic_steps, classes
        self.unrolled_steps, self.unrolled_lr = unrolled_steps, unrolled_lr
        self.generator_objective: Objective = objective
        extras = [objective, "R1" if r1 else "", "R2" if r2 else "", "unrolled" if unrolled_steps else ""]
        self.generator: nn.Sequential | StyleGenerator
        if network == "style":
            extras.insert(0, "style-based")
            self.generator = StyleGenerator(
                shape, latents, classes, channels, mapping_layers=mapping_layers, mixing=mixing, truncation=truncation
            )
            network = "convolutional"  # the critic's
        else:
            self.generator = generator_network(shape, latents + classes, channels, network)
        self.title = f"GAN ({', '.join(filter(None, extras))})"
        self.critic = critic_network(shape, channels, features, 1 + classes, network)
        if objective == "relativistic":
            self.objective = RELATIVISTIC
            self.critic[-1] = nn.Linear(features, 1 + classes, bias=False)  # a bias would cancel in the difference

    @property
    def note(self) -> str:
        """Whose the generator is, if it is style-based, and what truncation does."""
        if not isinstance(self.generator, StyleGenerator):
            return ""
        psi = self.generator.truncation
        cut = f" Its styles are truncated (ψ = {psi:g}), which makes samples more alike." if psi < 1 else ""
        return "Its generator is that of StyleGAN2 (Karras et al. 2020), without path length regularisation." + cut

    @property
    def players(self) -> dict[str, nn.Module]:
        """The critic and the generator."""
        return {"critic": self.critic, "generator": self.generator}

    @property
    def turns(self) -> tuple[str, ...]:
        """The critic k times, then the generator (algorithm 1)."""
        return ("critic",) * self.critic_steps + ("generator",)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """The player's loss; for the critic also the penalty, and its accuracy on real and fake images."""
        real = self._real(x)
        if player == "generator":
            fake = self._fake(len(x), y, generator)
            weights = self._unrolled(real, fake, y)
            return {"loss": self._generator_loss(real, fake, y, weights)}
        with torch.no_grad():
            fake = self._fake(len(x), y, generator)
        return self._critic_terms(real, fake, y, {})

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The energy distance between samples and x, within each class if there are any, and the critic's accuracy."""
        real = self._real(x)
        y_fake = torch.arange(VALIDATION_SAMPLES, device=self.device) % max(1, self.classes)
        fake = self._fake(VALIDATION_SAMPLES, y_fake, generator)
        shown = to_unit(from_unit(fake, self.levels), self.levels)
        distance = self._energy_distance((real + 1) / 2, y, (shown + 1) / 2, y_fake)
        on_real, on_fake = self._logit(real, y, {}), self._logit(fake, y_fake, {})
        if self.generator_objective == "relativistic":
            return {"loss": distance, "accuracy": self._share_above(on_real, y, on_fake, y_fake)}
        return {"loss": distance, **accuracy(on_real, on_fake)}

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n images, uint8 (n, C, H, W), from standard normal noise."""
        some = draw_classes(n, self.classes, generator, self.device) if self.classes else torch.zeros(n).long()
        return self.sample_given(some, generator)

    @torch.no_grad()
    def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
        """Draw one image of each class y, int64 (N,), from standard normal noise: uint8 (N, C, H, W)."""
        return from_unit(self._fake(len(y), y, generator), self.levels)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The critic's last hidden layer, (N, features)."""
        features: Tensor = self.critic[:-1](self._real(x))
        return features

    def _real(self, x: Tensor) -> Tensor:
        """The critic's input: images uint8 (N, C, H, W), scaled to [-1, 1]."""
        return to_unit(x, self.levels).to(next(self.critic.parameters()).dtype)

    def _fake(self, n: int, y: Tensor, generator: Generator) -> Tensor:
        """Generate n images scaled to [-1, 1], (n, C, H, W), of classes y, int64 (n,), if the model has any."""
        noise = normal((n, self.latents), generator, self.device)
        inputs = self._with_class(noise, y).to(next(self.generator.parameters()).dtype)
        noisy = isinstance(self.generator, StyleGenerator)  # in its layers, too
        images: Tensor = self.generator(inputs, generator) if noisy else self.generator(inputs)
        return images

    def _energy_distance(self, real: Tensor, y: Tensor, shown: Tensor, y_shown: Tensor) -> Tensor:
        """Energy distance of images scaled to [0, 1], (N, C, H, W), averaged over the real images' classes, if any."""
        if not self.classes:
            return energy_distance(real, shown)
        each = [energy_distance(real[y == k], shown[y_shown == k]) * (y == k).float().mean() for k in y.unique()]
        return torch.stack(each).sum()

    def _with_class(self, values: Tensor, y: Tensor) -> Tensor:
        """Values (N, *S), flattened, with the one-hot class appended: (N, d + classes)."""
        return torch.cat([values.flatten(1), F.one_hot(y, self.classes)], 1) if self.classes else values

    def _logit(self, images: Tensor, y: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """The critic's logits, (N, 1).

        Args:
            images: scaled to [-1, 1], (N, C, H, W).
            y: classes, int64 (N,), ignored if the model has none.
            weights: replace the critic's own, by name.
        """
        outputs: Tensor = functional_call(self.critic, weights, (images,))
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return outputs[:, :1] + outputs[:, 1:].gather(1, y.unsqueeze(1)) if self.classes else outputs

    def _generator_loss(self, real: Tensor, fake: Tensor, y: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """The generator's loss; arguments as of `_critic_terms`."""
        on_fake = self._logit(fake, y, weights)
        if self.generator_objective == "relativistic":
            return relativistic_loss(on_fake, self._logit(real, y, weights))
        loss = generator_loss(on_fake, self.generator_objective)
        return loss + F.logsigmoid(self._logit(real, y, weights)).mean() if weights else loss

    def _share_above(self, on_real: Tensor, y: Tensor, on_fake: Tensor, y_fake: Tensor) -> Tensor:
        """The share of pairs, of equal class if there are any, in which the critic puts the real image higher.

        Args:
            on_real: the critic's outputs, (N, 1).
            y: the real images' classes, int64 (N,).
            on_fake: the critic's outputs, (M, 1).
            y_fake: likewise, int64 (M,).
        """
        above = on_real > on_fake.T
        return (above[y[:, None] == y_fake] if self.classes else above).float().mean()

    def _critic_terms(self, real: Tensor, fake: Tensor, y: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The critic's loss and its terms.

        Args:
            real: images scaled to [-1, 1], (N, C, H, W).
            fake: likewise.
            y: classes of both, int64 (N,), ignored if the model has none.
            weights: replace the critic's own, by name.
        """
        real = real.detach().requires_grad_(self.r1 > 0)
        if self.r2 > 0 and not fake.requires_grad:  # if unrolled, it has come from the generator
            fake = fake.detach().requires_grad_()
        on_real, on_fake = self._logit(real, y, weights), self._logit(fake, y, weights)
        if self.generator_objective == "relativistic":
            terms = {"loss": relativistic_loss(on_real, on_fake), "accuracy": (on_real > on_fake).float().mean()}
        else:
            terms = {"loss": critic_loss(on_real, on_fake), **accuracy(on_real, on_fake)}
        if self.r1 > 0:
            terms["r1"] = gradient_penalty(on_real, real)
            terms["loss"] = terms["loss"] + self.r1 / 2 * terms["r1"]
        if self.r2 > 0:
            terms["r2"] = gradient_penalty(on_fake, fake)
            terms["loss"] = terms["loss"] + self.r2 / 2 * terms["r2"]
        return terms

    def _unrolled(self, real: Tensor, fake: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The critic's weights after its next steps on this batch, as functions of `fake`; its own weights stay.

        These are plain gradient descent steps, whatever optimiser trains the critic. Without unrolling, returns {}.
        """
        if not self.unrolled_steps:
            return {}
        weights: dict[str, Tensor] = {name: w.detach().requires_grad_() for name, w in self.critic.named_parameters()}
        for _ in range(self.unrolled_steps):
            loss = self._critic_terms(real, fake, y, weights)["loss"]
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            pairs = zip(weights.items(), gradients, strict=True)
            weights = {name: w - self.unrolled_lr * gradient for (name, w), gradient in pairs}
        return weights


def critic_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))] from logits, D = sigmoid (eq. 1)."""
    return -F.logsigmoid(on_real).mean() - F.logsigmoid(-on_fake).mean()


def generator_loss(on_fake: Tensor, objective: OfFakes) -> Tensor:
    """E[log(1 - D(G(z)))], or -E[log D(G(z))], which has a gradient even where the critic is certain (section 3)."""
    if objective == "minimax":
        return F.logsigmoid(-on_fake).mean()
    return -F.logsigmoid(on_fake).mean()


def relativistic_loss(higher: Tensor, lower: Tensor) -> Tensor:
    """-E[log sigmoid(D(a) - D(b))], each real image paired with a fake one (Huang et al. 2024, eq. 2).

    Args:
        higher: outputs for the images a that the player wants to be higher, (N, 1): the critic the real ones.
        lower: outputs for the others, (N, 1).
    """
    return -F.logsigmoid(higher - lower).mean()


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """E ‖∇ₓ logit(x)‖², differentiable (Mescheder et al. 2018, eq. 9 and 10).

    Args:
        logits: (N, 1), computed from x.
        x: (N, C, H, W), requires a gradient.
    """
    return input_gradient(logits, x).square().sum(1).mean()


def accuracy(on_real: Tensor, on_fake: Tensor) -> dict[str, Tensor]:
    """Fractions of real images classified as real and of fake images classified as fake, from logits."""
    return {"accuracy_real": (on_real > 0).float().mean(), "accuracy_fake": (on_fake < 0).float().mean()}


MODEL = Gan
