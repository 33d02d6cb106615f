"""What models that read captions are trained on."""

from dataclasses import replace

import torch

from workflow.data.arrays import Card
from workflow.data.captions import in_numbers, language_of
from workflow.data.tensors import ImageSet
from workflow.data.wordings import captions_of, thirds
from workflow.models.base import reads_captions


def told(model: object, images: ImageSet, train: ImageSet, card: Card) -> ImageSet:
    """For a model that reads captions, images with K captions of each in place of their classes; else the same images.

    Captions are int64 (N, K, caption_length): the user's own or, of data without any, made of the names of the classes.

    Args:
        model: to train.
        images: of any split.
        train: of the split `train`, which say what is thin and bold.
        card: of the data.
    """
    if not reads_captions(model):
        return images
    captions = images.captions
    if captions is None:
        language = language_of(card)
        assert language  # `check_model` lets no other data pass
        known = thirds(train.images.numpy(), train.labels.numpy(), card)
        texts = captions_of(images.images.numpy(), images.labels.numpy(), card, known)
        captions = torch.from_numpy(in_numbers(texts, language))
    padded = torch.nn.functional.pad(captions.long(), (0, model.caption_length - captions.shape[2]))
    return replace(images, labels=padded, captions=None)
