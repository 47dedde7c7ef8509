"""What the layers share: their configuration and their sublayers' precision."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_cvt._utils import arguments
from keras_cvt._utils import backend_operations as backend


class CvTLayer(keras.layers.Layer):
    """A layer whose configuration is the arguments of its constructor."""

    _stored: tuple[str, ...] = ()

    def _store(self, constructor: Callable, values: Mapping[str, Any]) -> None:
        """Store the constructor's arguments, chosen from its `locals()`."""
        given = arguments.select(constructor, values)
        self._stored = tuple(given)
        for name, value in given.items():
            setattr(self, name, value)

    def _sublayer(self, kind: type, name: str | None, *args: Any, **options: Any):
        """Return a layer that computes in this layer's precision."""
        return kind(*args, dtype=self.dtype_policy, name=name, **options)

    def _run(self, layer: keras.Layer, x: Any, training: bool | None, **options: Any):
        """Call a built sublayer of this layer.

        On PyTorch without `Layer.__call__`, whose checks take longer than the
        operations of a small sublayer, unless it has something to do: hooks,
        rematerialization, an activity regularizer or a cast.
        """
        same = layer.compute_dtype == self.compute_dtype
        if backend.ON_TORCH and same and not backend.needs_call(layer):
            return layer.call(x, training=training, **options)
        return layer(x, training=training, **options)

    def get_config(self):
        own = {name: getattr(self, name) for name in self._stored}
        return {**super().get_config(), **own}
