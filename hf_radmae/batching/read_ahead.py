"""Images of any source as a pipeline sees them, through the processor, in batches of one shape."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.images.image import ImageError, ImageSource

Key = TypeVar("Key")


def shaped_batches(
    images: Iterable[tuple[Key, ImageSource]],
    processor: RadiographImageProcessor,
    unusable: Callable[[Key, str], object],
    *,
    batch_size: int = 32,
    threads: int = 4,
) -> Iterator[tuple[list[Key], torch.Tensor]]:
    """Keys and pixels (batch, channels, height, width) of images, read by threads while the batch before is used.

    What is in a batch depends on the images and their order alone.

    Args:
        images: a key, and what `read_image` takes.
        processor: brings an image to its shape.
        unusable: called with key and reason of an image that cannot be used.
        batch_size: most images of a batch.
        threads: images that are read at once.
    """
    groups: dict[torch.Size, tuple[list[Key], list[torch.Tensor]]] = defaultdict(lambda: ([], []))
    for key, future in _read_ahead(images, processor, threads):
        try:
            pixels = future.result()
        except (ImageError, FileNotFoundError) as error:
            unusable(key, error.reason if isinstance(error, ImageError) else "is missing: no such file")
            continue
        keys, group = groups[pixels.shape]
        keys.append(key)
        group.append(pixels)
        if len(keys) == batch_size:
            del groups[pixels.shape]
            yield keys, torch.stack(group)
    for keys, group in groups.values():
        yield keys, torch.stack(group)


def _read_ahead(
    images: Iterable[tuple[Key, ImageSource]], processor: RadiographImageProcessor, threads: int
) -> Iterator[tuple[Key, Future[torch.Tensor]]]:
    def read(image: Any) -> torch.Tensor:
        return processor(image)["pixel_values"][0]

    waiting: deque[tuple[Key, Future[torch.Tensor]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for key, image in images:
            waiting.append((key, pool.submit(read, image)))
            if len(waiting) == 2 * threads:
                yield waiting.popleft()
        yield from waiting
