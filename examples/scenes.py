"""Pictures that are made when they are asked for."""

import numpy as np


class Scenes:
    """A sequence of scenes. Each is made when it is asked for, always the same one.

    A subclass has the names of its `splits`, and `make(random numbers, index)`.

    Args:
        split: One of `splits`.
        count: Number of scenes.
        size: Of a scene, as `make` takes it.
        seed: Scenes of another seed are others.
    """

    splits: tuple[str, ...] = ()

    def __init__(self, split, count, size, seed=0):
        self.split = self.splits.index(split)
        self.count = count
        self.size = size
        self.seed = seed

    def make(self, rng, index):
        raise NotImplementedError

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.split, index))
        return self.make(rng, index)
