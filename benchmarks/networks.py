"""The networks that the benchmarks compare: keras_cvt's and transformers' PyTorch CvT.

A contender is a function. It takes the command line's arguments. It returns a function
that runs the network once, and the number of images in one run.
"""

import os

MODELS = {
    "cvt13": ("CvT13", "CVT_13"),
    "cvt21": ("CvT21", "CVT_21"),
    "cvtw24": ("CvTW24", "CVT_W24"),
}


def keras_cvt_call(args):
    """Return the compiled call of an unchanged model."""
    return compiled_call(args, keras_model(args))


def keras_cvt_jax(args):
    """Return the compiled call of an unchanged model on JAX."""
    use_backend("jax")
    return jax_call(keras_model(args), pixels(args.batch_size, args.image_size))


def jax_call(model, images):
    import jax

    variables = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    images = jax.numpy.asarray(images)

    @jax.jit
    def call(variables, others, images):
        return model.stateless_call(variables, others, images, training=False)[0]

    return lambda: call(variables, others, images).block_until_ready(), len(images)


def keras_cvt_torch(args):
    """Return the eager call of an unchanged model on PyTorch."""
    use_backend("torch")
    import torch

    torch.set_num_threads(args.threads)
    model = keras_model(args)
    images = torch.from_numpy(pixels(args.batch_size, args.image_size))

    def run():
        with torch.inference_mode():
            return model(images, training=False)

    return run, args.batch_size


def keras_cvt_torch_compiled(args):
    """Return the call under `torch.compile`, of the program of `torch.export`."""
    use_backend("torch")
    import torch

    torch.set_num_threads(args.threads)
    model = keras_model(args)
    images = torch.from_numpy(pixels(args.batch_size, args.image_size))
    # Dynamo would compile each of Keras's layers anew until it gives up.
    program = torch.export.export(model, (images,))
    compiled = torch.compile(program.module())

    def run():
        with torch.inference_mode():
            return compiled(images)

    return run, args.batch_size


def use_backend(name):
    """Choose Keras's backend of this process, before it imports Keras."""
    os.environ["KERAS_BACKEND"] = name


def compiled_call(args, model):
    images = pixels(args.batch_size, args.image_size)
    if os.environ["KERAS_BACKEND"] != "tensorflow":
        raise SystemExit("The compiled call needs KERAS_BACKEND=tensorflow.")
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False))
    images = tf.constant(images)
    return lambda: function(images).numpy(), args.batch_size


def transformers_eager(args):
    """Return transformers' model under `inference_mode`."""
    return torch_run(args, transformers_model(args))


def transformers_bfloat16(args):
    """Return transformers' model under `autocast` to bfloat16 and `inference_mode`."""
    import torch

    run, count = transformers_eager(args)

    def low():
        with torch.autocast("cpu", torch.bfloat16):
            return run()

    return low, count


def torch_run(args, model):
    import torch

    images = torch.from_numpy(pixels(args.batch_size, args.image_size) / 255)
    images = images.permute(0, 3, 1, 2).contiguous()

    def run():
        with torch.inference_mode():
            return model(images).logits

    return run, args.batch_size


def pixels(count, size):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (count, size, size, 3)).astype("float32")


def tensorflow(threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def keras_model(args, **kwargs):
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        tensorflow(args.threads)
    import keras_cvt

    return getattr(keras_cvt, MODELS[args.model][0])(weights=None, **kwargs)


def transformers_model(args):
    import torch
    from transformers import CvtConfig, CvtForImageClassification

    torch.set_num_threads(args.threads)
    config = CvtConfig.from_json_file(args.config_file)
    return CvtForImageClassification(config).eval()


def image_gflop(args):
    """Return the GFLOP of one image: two operations per multiply-accumulate."""
    from keras_cvt import config, profile

    size = args.image_size
    return 2 * profile.macs(getattr(config, MODELS[args.model][1]), size, size) / 1e9
