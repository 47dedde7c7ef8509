"""Serve a network over HTTP with Ray Serve. It needs the extra `[ray]`."""

from keras_cvt.serving.application import application, build

__all__ = ["application", "build"]
