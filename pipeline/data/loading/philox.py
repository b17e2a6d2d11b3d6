"""Random numbers that are a function of their place: Philox4x32-10, a counter-based generator.

Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011), table 2 and
section 4. There is no state to save: the numbers of an image come from (seed, epoch, image), on
any worker, in any order.
"""

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio, and the square root of 3 less 1
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

# The last counter word separates the uses of the numbers.
_VIEWS, _ORDER, _KEYS = 0, 1, 2

_BLOCKS_IN_CACHE = 1 << 14


def philox4x32(counters: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Encrypt 128-bit counters (n, 4) under a 64-bit key; all words are 32 bits in uint64.

    Returns (n, 4). The words are uint64 because a round multiplies two of them in full.
    """
    words = [counters[:, column] for column in range(4)]
    for number in range(_ROUNDS):
        first_key, second_key = (
            np.uint64((word + number * step) & 0xFFFFFFFF)
            for word, step in zip(key, _KEY_STEPS, strict=True)
        )
        first = words[0] * _MULTIPLIERS[0]
        second = words[2] * _MULTIPLIERS[1]
        words = [
            (second >> _HALF) ^ words[1] ^ first_key,
            second & _LOW,
            (first >> _HALF) ^ words[3] ^ second_key,
            first & _LOW,
        ]
    return np.stack(words, axis=1)


def uniforms(seed: int, epoch: int, images: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return float64 (n, count) in [0, 1): `count` numbers for each of `images` (n,).

    A pure function of (seed, epoch, image, column). `seed` and `epoch` must be below 2³².
    """
    num_blocks = -(-count // 4)
    counters = np.zeros((len(images), num_blocks, 4), dtype=np.uint64)
    counters[..., 0] = (images.astype(np.uint64) & _LOW)[:, None]
    counters[..., 1] = (images.astype(np.uint64) >> _HALF)[:, None]
    counters[..., 2] = np.arange(num_blocks, dtype=np.uint64)
    counters[..., 3] = _VIEWS
    words = philox4x32(counters.reshape(-1, 4), (seed, epoch))
    return words.reshape(len(images), num_blocks * 4)[:, :count].astype(np.float64) / 2**32


def image_keys(seed: int, epoch: int, images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one random 64-bit number for each of `images` (n,), int64 (n,), of either sign.

    It seeds what the network itself draws for an image (`pipeline.models.dropout`).
    """
    counters = np.zeros((len(images), 4), dtype=np.uint64)
    counters[:, 0] = images.astype(np.uint64) & _LOW
    counters[:, 1] = images.astype(np.uint64) >> _HALF
    counters[:, 3] = _KEYS
    words = philox4x32(counters, (seed, epoch))
    return ((words[:, 0] << _HALF) | words[:, 1]).view(np.int64)


def sort_keys(seed: int, epoch: int, num_images: int) -> NDArray[np.uint64]:
    """Return one 64-bit random number for each image, uint64 (num_images,), to sort them by."""
    keys = np.empty((-(-num_images // 2), 2), dtype=np.uint64)  # a block makes two keys
    for start in range(0, len(keys), _BLOCKS_IN_CACHE):
        chunk = keys[start : start + _BLOCKS_IN_CACHE]
        counters = np.zeros((len(chunk), 4), dtype=np.uint64)
        counters[:, 0] = np.arange(start, start + len(chunk), dtype=np.uint64)
        counters[:, 3] = _ORDER
        words = philox4x32(counters, (seed, epoch))
        chunk[:] = (words[:, 0::2] << _HALF) | words[:, 1::2]
    return keys.reshape(-1)[:num_images]
