"""Training on several machines, with Ray Train."""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_cvt._utils import files, validation
from keras_cvt._utils.optional import require

logger = logging.getLogger(__name__)

# How messages of XLA begin if processes lose each other.
_STATUS = re.compile(
    "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): "
)


def run_with_ray(
    function: Callable[[bool], Any],
    *,
    workers: int = 2,
    address: str | None = None,
    cpus_per_worker: int = 1,
    gpus_per_worker: int = 0,
    restarts: int = 3,
) -> Any:
    """Call a function that trains in several JAX processes, which Ray Train starts.

    The processes (workers) are joined as `training.distribute("data_parallel", ...)`
    expects it, so that they share each batch. They use JAX, whatever backend this
    process uses. If a worker dies, all of them are started again, and the function
    resumes.

    The workers run in this process's working directory. It must be on a disk that all
    machines share, as must the images and the folder of the run. All machines need
    the same packages.

    It was tested with several workers on one machine, without GPUs. With GPUs, start
    one worker on each machine: Ray shows the same ones to all workers of a machine.

    Args:
        function: Called in each worker with `resume`: whether this is a later start.
            Pass it on: `training.Run(folder, resume=resume)`. Ray must be able to send
            the function to the workers: it holds no model, but builds it.
        workers: Number of processes. Defaults to `2`.
        address: Address of the cluster; `"auto"` finds a running one. Not used if Ray
            has been initialised. Defaults to `None`: starts Ray on this machine until
            the function has returned.
        cpus_per_worker: Processors that Ray reserves for each of them. Defaults to `1`.
        gpus_per_worker: GPUs of each of them. With `0`, JAX computes on the processor.
            Defaults to `0`.
        restarts: How often to start again if workers die, or lose each other. Any
            `RuntimeError` counts as such, because JAX raises it then; other errors of
            the function are not repeated. Defaults to `3`.

    Returns:
        What the function returns in the first worker, whose `Run` writes.

    Raises:
        ValueError: If an argument is out of range, or the cluster is too small.
        ImportError: If Ray or JAX is missing.
        ray.train.TrainingFailedError: If workers died more often than `restarts`.
        Exception: An error of the function, as the worker raised it.

    Example:
        ```python
        def train(resume):
            with training.distribute("data_parallel", batch_size=32):
                run = training.Run("run", resume=resume)
                model = keras_cvt.CvT13(classes=2, classifier_activation=None)
                return training.fit(model, recipe, images, held_out, run, batch_size=32)


        training.run_with_ray(train, workers=4, address="auto")
        ```
    """
    validation.check_int(1, workers=workers, cpus_per_worker=cpus_per_worker)
    validation.check_int(0, gpus_per_worker=gpus_per_worker, restarts=restarts)
    train = require("ray.train", "ray", "Ray Train")
    ray = require("ray", "ray")
    require("jax", "jax", "Training with Ray")
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            ray.init(address=address or "local")
            stack.callback(ray.shutdown)
        needed = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
        _check_cluster(ray.cluster_resources(), needed, workers)
        # Ray's own records, which it expects on a shared disk.
        records = stack.enter_context(files.temporary_folder(Path.cwd()))
        for start in range(restarts + 1):
            trainer = _trainer(
                functools.partial(_work, function, start > 0, os.getcwd()),
                f"start{start}",
                records,
                needed,
                workers,
            )
            try:
                return trainer.fit().return_value
            except (train.WorkerGroupError, train.PreemptionError) as error:
                own = _error_of_the_function(error)
                if own is not None:
                    raise own from error
                if start == restarts:
                    raise
                logger.warning(
                    "A worker died. All workers start again, for the %d. of at most %d "
                    "times. %s",
                    start + 1,
                    restarts,
                    error,
                )


def _work(function, resume, folder):
    """Call the function in a worker."""
    # Ray has changed to a folder of its own.
    try:
        os.chdir(folder)
    except OSError as error:
        raise ValueError(
            "Expected a working directory that all machines share. Received: "
            f"{folder} ({error})"
        ) from error
    return function(resume)


def _check_cluster(found, needed, workers):
    for kind, each in needed.items():
        if found.get(kind, 0) < each * workers:
            raise ValueError(
                f"{workers} workers with {each} {kind}s each need {each * workers} "
                f"{kind}s. Received: a Ray cluster with {found.get(kind, 0):g}"
            )


def _trainer(worker, name, records, needed, workers):
    from ray import train
    from ray.train.v2.jax import JaxConfig, JaxTrainer

    environment = {
        # The machines do not have this process's environment.
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cuda" if needed["GPU"] else "cpu",
        # The default of newer releases.
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    return JaxTrainer(
        worker,
        # Without this, Ray does not join the processes. It then does so on the
        # platform that JAX_PLATFORMS names.
        jax_config=JaxConfig(use_gpu=True),
        scaling_config=train.ScalingConfig(
            num_workers=workers,
            use_gpu=needed["GPU"] > 0,
            resources_per_worker={k: count for k, count in needed.items() if count},
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=os.fspath(records),
            # `run_with_ray` starts again: Ray would also repeat errors of the function.
            failure_config=train.FailureConfig(
                max_failures=0, max_preemption_failures=0
            ),
            logging_config=train.LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": environment},
        ),
    )


def _error_of_the_function(error):
    """Return the error that the function raised, or None if only workers died."""
    for failure in getattr(error, "worker_failures", {}).values():
        # Ray's errors say that a worker died.
        rays = type(failure).__module__.startswith("ray.")
        # So do JAX's, which are RuntimeErrors, and sometimes ValueErrors.
        jaxs = isinstance(failure, RuntimeError) or _STATUS.match(str(failure))
        if not rays and not jaxs:
            return failure
    return None
