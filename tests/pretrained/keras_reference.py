"""Builds, saves and runs networks of keras.applications, in a process of its own.

    python keras_reference.py FOLDER NAME:SIDE:LAYOUT …

writes for each FOLDER/NAME.h5 (or NAME.weights.h5) and FOLDER/NAME.npz with images (n, h, w, 3) and
probabilities (n, 5). Weights are random, and batch norm is no identity.
"""

import os
import sys
import warnings
from pathlib import Path

import numpy as np

os.environ["KERAS_BACKEND"] = "torch"


def main(folder: Path, wanted: list[str]) -> None:
    warnings.simplefilter("ignore")
    import keras

    for each in wanted:
        name, side, layout = each.split(":")
        generator = np.random.default_rng(0)
        keras.utils.set_random_seed(0)
        network = getattr(keras.applications, name)(
            weights=None, classes=5, input_shape=(int(side), int(side), 3)
        )
        for weight in network.weights:
            random = generator.uniform(-0.5, 0.5, weight.shape)
            match weight.name:
                case "gamma" | "moving_variance":
                    weight.assign(1 + random)
                case "beta" | "bias" | "moving_mean":
                    weight.assign(random)
        match layout:
            case "weights":
                network.save_weights(folder / f"{name}.weights.h5")
            case "model":
                network.save(folder / f"{name}.h5")
            case "legacy":  # of weights alone, as the released files are
                import h5py
                from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

                with h5py.File(folder / f"{name}.h5", "w") as file:
                    save_weights_to_hdf5_group(file, network)
        images = generator.normal(size=(2, int(side), int(side), 3)).astype(np.float32)
        probabilities = np.asarray(network.predict(images, verbose=0))
        np.savez(folder / f"{name}.npz", images=images, probabilities=probabilities)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
