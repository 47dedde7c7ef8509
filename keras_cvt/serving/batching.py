"""Batches of what arrives one by one, on an event loop."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Batcher:
    """Computes in batches what many coroutines ask for one by one.

    When a batch is computed, the next one takes what has come meanwhile. So batches
    grow with the load. `ray.serve.batch` closes a batch when its time is over, even if
    an earlier one is still being computed: under load, many small ones wait in a row.

    Args:
        compute: Takes a list of at most `batch_size` items, and returns as many
            results. It runs in a thread of its own, one call at a time.
        batch_size: Most items of a batch.
        wait_s: Seconds that the first item of a batch waits for others, if `compute`
            has nothing else to do.
    """

    def __init__(
        self,
        compute: Callable[[list[Any]], Sequence[Any]],
        batch_size: int,
        wait_s: float,
    ):
        self._compute = compute
        self._batch_size = batch_size
        self._wait_s = wait_s
        self._thread = ThreadPoolExecutor(1, "keras_cvt_network")
        self._items: asyncio.Queue[tuple[Any, float, asyncio.Future]] = asyncio.Queue()
        self._task: asyncio.Task | None = None

    async def __call__(self, item: Any) -> Any:
        """Return the result for an item.

        Raises:
            Exception: What `compute` raised for the batch with it.
        """
        if self._task is None:  # only now is there an event loop
            self._task = asyncio.create_task(self._run())
        loop = asyncio.get_running_loop()
        result = loop.create_future()
        self._items.put_nowait((item, loop.time(), result))
        return await result

    async def _run(self):
        loop = asyncio.get_running_loop()
        while True:
            collected = await self._collect()
            # Those that waited too long, or whose client has gone, are cancelled.
            batch = [
                (item, result) for item, _, result in collected if not result.done()
            ]
            if not batch:
                continue
            items = [item for item, _ in batch]
            try:
                computed = await loop.run_in_executor(
                    self._thread, self._compute, items
                )
            except Exception as error:
                for _, result in batch:
                    if not result.done():
                        result.set_exception(error)
                continue
            for (_, result), value in zip(batch, computed, strict=True):
                if not result.done():
                    result.set_result(value)

    async def _collect(self):
        batch = [await self._items.get()]
        try:
            async with asyncio.timeout_at(batch[0][1] + self._wait_s):
                while len(batch) < self._batch_size:
                    # What waits already is taken, however late it is.
                    batch.append(await self._items.get())
        except TimeoutError:
            pass
        return batch
