"""A process that answers for batches of inputs, one after the other, until its parent ends.

``-m wafer.inference.worker DESCRIPTOR``: a socket over which come a function that opens the model
and then batches, and go back lists of rows, or the text of an error. For a batch that has ended
other processes the position of each input goes back too, before it is read, and None before the
network runs.
"""

from __future__ import annotations

import signal
import sys
import warnings
from contextlib import closing
from multiprocessing.connection import Connection

from wafer.datasets.errors import WaferError
from wafer.inference.pipeline import answer

__all__: list[str] = []


def main() -> None:
    """Answer until nobody asks any more."""
    warnings.simplefilter("ignore")  # of odd tags in files: the row says what matters
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what ends when
    with Connection(int(sys.argv[1])) as parent:
        try:
            _work(parent)
        except WaferError as error:
            parent.send(str(error))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # the parent has ended


def _work(parent: Connection) -> None:
    import cv2

    cv2.setNumThreads(1)  # there is a process for each core
    predictor = parent.recv()()
    with closing(predictor.engine):
        while True:
            items, suspect = parent.recv()
            parent.send(answer(items, predictor, begin=parent.send if suspect else None))


if __name__ == "__main__":
    main()
