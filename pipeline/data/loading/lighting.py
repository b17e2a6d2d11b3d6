"""PCA lighting: AlexNet's colour noise along the principal components of ImageNet's RGB pixels."""

import numpy as np
from numpy.typing import NDArray

from pipeline.config.augmentation import ColorComponents
from pipeline.config.boxes import Floats

# From the input_meta file of cuda-convnet2, with which AlexNet was trained: standard deviations in
# grey levels (0–255), and eigenvectors as columns in the same order, rows R, G, B.
RGB_STDS = np.array([19.72083, 37.09389, 121.78006])
RGB_EIGENVECTORS = np.array(
    [
        [0.41795513, -0.71257945, -0.56351045],
        [-0.81698062, -0.02354167, -0.57618440],
        [0.39731118, 0.70119634, -0.59200296],
    ]
)

# Those of fb.resnet.torch (`datasets/imagenet.lua`), which DenseNet's code took over, for pixels in
# 0–1. Its "eigval" are variances, and scale the steps without a root: main axis 5.5 grey levels at
# strength 0.1, where AlexNet's code has 12.2.
FB_STEPS = 255 * np.array([0.2175, 0.0188, 0.0045])
FB_EIGENVECTORS = np.array(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)

_STEPS_AND_EIGENVECTORS: dict[ColorComponents, tuple[Floats, Floats]] = {
    "cuda-convnet": (RGB_STDS, RGB_EIGENVECTORS),
    "fb": (FB_STEPS, FB_EIGENVECTORS),
}


def pca_lighting(
    numbers: Floats, strength: float, components: ColorComponents
) -> NDArray[np.float32]:
    """Return what is added to R, G, B in 0–255, float32 (n, 3): a normal step along each component.

    numbers: float64 (n, 4), uniform in [0, 1). AlexNet §4.1, whose λ must be read as the root of
    the eigenvalue in 0–255 units; its own code does.
    """
    if strength == 0:
        return np.zeros((len(numbers), 3), dtype=np.float32)
    # Box and Muller, "A Note on the Generation of Random Normal Deviates" (1958). 1 - u is in
    # (0, 1], which the logarithm needs.
    radius = np.sqrt(-2 * np.log(1 - numbers[:, 0::2]))
    angle = 2 * np.pi * numbers[:, 1::2]
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :3]
    steps, eigenvectors = _STEPS_AND_EIGENVECTORS[components]
    return ((normals * steps * strength) @ eigenvectors.T).astype(np.float32)
