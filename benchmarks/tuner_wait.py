"""Show that the end of a tf.data loop waits for the pipeline tuner, without Keras.

The tuner (`options.autotune`) is a thread that looks at the pipeline 10, 30, 70, ...
2550, 5110, 10230 ms after its start. Now and then a loop that has had all its batches
ends only at the next look. With the tuner off, none does.

    python benchmarks/tuner_wait.py
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", type=int, default=12)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--size", type=int, default=3000, help="of the products")
    options = parser.parse_args()

    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)
    print(f"TensorFlow {tf.__version__}, {options.batches} batches, two threads\n")
    print(
        "| tuner | mean wait at the end, s | longest, s | loops that waited > 0.2 s |"
    )
    print("|---|---|---|---|")
    for tuned in (True, False):
        waits = [wait(tf, options, tuned) for _ in range(options.loops)]
        late = sum(seconds > 0.2 for seconds in waits)
        mean = sum(waits) / len(waits)
        print(
            f"| {'on' if tuned else 'off'} | {mean:.2f} | {max(waits):.2f} "
            f"| {late} of {len(waits)} |",
            flush=True,
        )


def wait(tf, options, tuned):
    """Return the seconds between the last batch of a loop and its end."""
    matrices = tf.random.normal((options.batches, options.size, options.size))
    dataset = tf.data.Dataset.from_tensor_slices(matrices).batch(1)
    own = tf.data.Options()
    own.autotune.enabled = tuned
    for batch in dataset.with_options(own):
        tf.matmul(batch, batch).numpy()
        last = time.perf_counter()
    return time.perf_counter() - last


if __name__ == "__main__":
    main()
