"""Several processes at a time, as so many hosts: the log and the exit code of each."""

import subprocess
import threading
from collections.abc import Callable, Sequence


def ended(
    processes: Sequence[subprocess.Popen], timeout: float, heed: Callable[[int, str], None] = lambda *_: None
) -> list[tuple[int, str]]:
    """Exit code and log of each, once all have ended; `heed` hears every line of a log, with its process's number.

    A log is what a process writes into the one pipe that it has. Those that run after `timeout` seconds are killed.
    """
    pipes = [process.stderr or process.stdout for process in processes]
    logs: list[list[str]] = [[] for _ in processes]

    def listen(number: int) -> None:
        for line in pipes[number]:
            logs[number].append(line)
            heed(number, line)

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(len(processes))]
    for thread in threads:
        thread.start()
    try:
        codes = [process.wait(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for thread in threads:
            thread.join()
        for pipe in pipes:
            pipe.close()
    return [(code, "".join(log)) for code, log in zip(codes, logs, strict=True)]
